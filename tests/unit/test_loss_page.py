"""The page of one training's loss."""

from tunegate.report.loss_page import write_loss_page
from tunegate.steps import Result


def test_a_curve_is_drawn_from_the_log_of_a_result(tmp_path):
    log = [{"step": step, "loss": 3 / step} for step in range(1, 6)] + [{"step": 6, "learning_rate": 1e-4}]
    write_loss_page(tmp_path / "folder" / "curve", "Supervised fine-tuning", Result({"log": log}, line="5 steps & more"))
    page = (tmp_path / "folder" / "curve").read_text()
    assert page.count("<svg") == 1 and "0.600" in page and "5 steps &amp; more" in page
    assert '<path class="line" d="M' in page and page.count("L") >= 4


def test_what_has_no_curve_says_so(tmp_path):
    write_loss_page(tmp_path / "curve", "Preference optimisation", Result({"log": []}, line="no preference step asked for"))
    page = (tmp_path / "curve").read_text()
    assert "<svg" not in page and "no preference step asked for" in page and "Too few steps were logged" in page
