import io
import sys

from alphanet_zoo.train.progress import Progress


def line(step, **changes):
    subnets = {"largest": {"loss": 1.25, "accuracy": 0.5}, "random-1": {"loss": 9.0}, "smallest": {"loss": 2.5}}
    return {"step": step, "epoch": 1, "lr": 0.05, "images_per_second": 123.4, "subnets": subnets, **changes}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, *, enabled=True):
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(enabled=enabled, start=10, end=40)
    progress.say("resumed from step 10 of 40")
    progress.move_to(20)
    progress.report(line(20), 4)
    progress.validated(20, {"smallest": {"accuracy": 0.9, "images": 300.0}})
    progress.move_to(21)
    progress.close()
    return stream.getvalue()


def test_lines_are_printed_without_a_terminal(monkeypatch):
    first, step, validation = shown(monkeypatch, io.StringIO()).splitlines()
    assert first == "resumed from step 10 of 40"
    assert step.startswith(
        "step 20/40 (epoch 2/4): learning rate 0.05, loss 1.250 largest, 2.500 smallest, training accuracy 50.0%, "
        "123 images per second, "
    )
    assert step.endswith(" s left")
    assert validation == "step 20/40 validation: smallest 90.0% of 300 validation images"


def test_a_terminal_has_a_bar_with_loss_and_accuracy(monkeypatch):
    text = shown(monkeypatch, Terminal())
    assert "loss=1.250, accuracy=50.0%" in text and "21/40" in text
    assert "resumed from step 10 of 40\n" in text and "step 20/40 validation: smallest 90.0%" in text
    assert "images per second" not in text


def test_nothing_is_printed_if_that_is_set(monkeypatch):
    assert shown(monkeypatch, io.StringIO(), enabled=False) == shown(monkeypatch, Terminal(), enabled=False) == ""


def test_a_fine_tuned_net_and_labels_have_lines_too(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress = Progress(enabled=True, start=0, end=40)
    progress.report(line(20, subnets={"network": {"loss": 1.0, "label_accuracy": 0.75}}), 4)
    assert "loss 1.000, training accuracy 75.0%" in sys.stderr.getvalue()
