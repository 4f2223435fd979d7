"""The commands about proof: verify a verdict for the files of a model, waive one for a while, make keys."""

from pathlib import Path
from typing import Annotated

import typer

from tunegate.errors import BadInput

app = typer.Typer()
PANEL = "Proof"
StoreOption = Annotated[str, typer.Option("--store", help="Where waivers are kept: a directory or s3://bucket/prefix.")]
WORD = 12  # characters of a digest that people read


def _verdict_directory(path: Path) -> Path:
    return path.parent if path.is_file() else path


@app.command(rich_help_panel=PANEL)
def verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="The files of the model.", exists=True, file_okay=False)],
    verdict: Annotated[Path, typer.Argument(metavar="VERDICT", help="verdict.json with its evidence beside it, or their directory.")],
    policy: Annotated[Path | None, typer.Option(help="The policy in force; else TUNEGATE_POLICY, else the verdict's own.")] = None,
    keys: Annotated[Path | None, typer.Option(help="PEM file of trusted public keys; else TUNEGATE_TRUSTED_KEYS.")] = None,
    store: StoreOption = "",
    data: Annotated[Path | None, typer.Option(help="What curate wrote: refuse a verdict on another sealed test.")] = None,
):
    """Make a verdict again from its evidence, and check it against the files of the model, a policy and keys. Works offline."""
    from tunegate.gate import signing
    from tunegate.gate.policy import load_policy
    from tunegate.gate.verify import sealed_digest, verify_model
    from tunegate.store import open_store

    if not verdict.exists():
        raise BadInput(f"There is nothing at {verdict}. Give verdict.json or the directory that gate wrote.")
    trusted = signing.public_keys(str(keys), "--keys") if keys else None
    in_force = load_policy(policy) if policy else None
    sealed = sealed_digest(data) if data else None
    waivers = open_store(store) if store else None
    proof = verify_model(model, _verdict_directory(verdict), in_force, keys=trusted, store=waivers, sealed_sha256=sealed)
    said = proof.verdict["predicate"]
    files, gates = len(said["facts"].get("files") or {}), said["gates"]
    print(f"The verdict on {model} holds: {proof.verdict['decision']}, {proof.signed}.")
    asked = [gate for gate in gates if gate["outcome"] != "skipped"]
    passed = f"{sum(gate['passed'] for gate in asked)} of {len(asked)} gates passed"
    passed += f", {skipped} skipped" if (skipped := len(gates) - len(asked)) else ""
    print(f"  policy    {said['policy']['name']} ({said['policy']['sha256'][:WORD]}), {passed}")
    print(f"  evidence  {said['evidence']['rows']:,} results ({said['evidence']['sha256'][:WORD]})")
    print(f"  model     {f'{files} files as judged' if files else 'its digest as judged'}")
    if proof.waived:
        print(f"  WAIVED, not proven: by {proof.waived}")


@app.command(rich_help_panel=PANEL)
def waive(
    verdict: Annotated[Path, typer.Argument(metavar="VERDICT_DIR", help="verdict.json with its evidence beside it, or their directory.")],
    store: StoreOption,
    key: Annotated[Path, typer.Option(help="PEM file of a private key whose public one is in TUNEGATE_WAIVER_KEYS.")],
    who: Annotated[str, typer.Option(help="Who takes it on.")],
    reason: Annotated[str, typer.Option(help="Why; it is shown wherever the model is.")],
    days: Annotated[float, typer.Option(help="For how long, at most 30 days.")],
):
    """Break the glass: let a model that was rejected, held or left inconclusive through for some days; signed, and shown everywhere."""
    from tunegate.gate.waiver import shown
    from tunegate.gate.waiver import waive as sign
    from tunegate.store import open_store

    print(f"Waived: {shown(sign(_verdict_directory(verdict), open_store(store), str(key), who, reason, days))}")
    print("Start the run again; it goes on past its gate where TUNEGATE_WAIVER_KEYS holds the public key.")


@app.command(rich_help_panel=PANEL)
def keys(output: Annotated[Path, typer.Option(help="Directory to write private.pem and public.pem into.")]):
    """Make a pair of keys to sign with, for the gate or for waivers; never the same for both."""
    from tunegate.gate.signing import make_keys

    private, public = make_keys(output)
    print(f"{private}  to sign: TUNEGATE_SIGNING_KEY for the gate, --key for `tunegate waive`. Keep it in a secret.")
    print(f"{public}  to check: TUNEGATE_TRUSTED_KEYS for verdicts, TUNEGATE_WAIVER_KEYS for waivers.")
