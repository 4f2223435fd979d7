"""Names that a recipe's curation may use: fixed here, so that a recipe is checked without the packages that know them.

Tests hold both lists to what those packages find.
"""

import difflib

REVERSED = "Chosen and rejected may be reversed"  # how a warning about preference pairs begins, which the gate reads too

# Presidio's entities that are told by a checksum or a form of their own, without the words around them.
ENTITIES = (
    "CREDIT_CARD", "CRYPTO", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "MAC_ADDRESS", "PHONE_NUMBER", "URL",
    "CA_SIN", "DE_ID_CARD", "DE_SOCIAL_SECURITY", "DE_TAX_ID", "ES_NIE", "ES_NIF", "FI_PERSONAL_IDENTITY_CODE", "IN_AADHAAR",
    "IN_PAN", "IT_FISCAL_CODE", "KR_RRN", "PL_PESEL", "SE_PERSONNUMMER", "SG_NRIC_FIN", "TH_TNIN", "TR_NATIONAL_ID",
    "UK_NHS", "UK_NINO", "US_ITIN", "US_MBI", "US_SSN", "ZA_ID_NUMBER",
)  # fmt: skip

# The labels of py3langid 0.4, without its "zxx" for what is no language.
LANGUAGES = tuple(
    "ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr fuv fy ga gcf gcr gd gl "
    "gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn "
    "mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug "
    "uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu".split()
)


def refuse_unknown(given: list[str], known: tuple[str, ...], what: str) -> list[str]:
    """Give the names back, or say which is unknown and which known one is nearest.

    Raises:
        ValueError: one is unknown.
    """
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"Did you mean '{nearest[0]}'?" if nearest else f"Known are {', '.join(known)}."
            raise ValueError(f"'{name}' is not {what}. {hint}")
    return given
