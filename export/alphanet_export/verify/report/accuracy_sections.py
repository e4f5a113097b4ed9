"""The sections of a verification report on accuracy, probabilities, mistakes and robustness."""

from __future__ import annotations

import math

from alphanet_export.verify.measure.accuracy import Accuracy
from alphanet_export.verify.measure.diagnostics import Diagnostics
from alphanet_export.verify.measure.robustness import Robustness
from alphanet_export.verify.report.accuracy_plots import matrix_plot, reliability_plot, robustness_plot
from alphanet_export.verify.report.figures import VerificationFigures
from alphanet_export.verify.report.plots import agreement_plot
from alphanet_export.verify.report.render import NOT_MEASURED, Row, Section, Table, interval

SIGNIFICANT = 0.05
"""Significance level of McNemar's test."""
SHORT = 5
"""Rows of a long table in text and Markdown."""
PAIRS = 20
"""Confusions in the HTML page; the JSON report has more."""


def accuracy_sections(report: VerificationFigures) -> list[Section]:
    """The sections; all but the first only if they were measured."""
    sections = [_accuracy_section(report)]
    if (found := report.diagnostics) and report.accuracy:
        sections += [_class_section(found), _confusion_section(found), _probability_section(found, report.accuracy)]
        if found.mistakes:
            sections.append(_mistake_section(found, report.thumbnails))
    if report.robustness:
        sections.append(_robustness_section(report.robustness))
    return sections


def _accuracy_section(report: VerificationFigures) -> Section:
    """Top-1 and top-5, and the comparison with the reference on the same images."""
    accuracy = report.accuracy
    if accuracy is None:
        remark = "pass --data with labelled images, without --parity-only"
        return Section("Accuracy", (("Top-1", NOT_MEASURED, remark),))
    target = "" if report.min_top1 is None else f", target: at least {report.min_top1:g} %"
    rows = [("Top-1", f"{accuracy.top1:.2f} %", interval(accuracy.top1_interval, "%") + target)]
    if accuracy.top5 is not None and accuracy.top5_interval is not None:
        rows.append(("Top-5", f"{accuracy.top5:.2f} %", interval(accuracy.top5_interval, "%")))
    rows.append(("Images", str(accuracy.images), f"{accuracy.classes} classes, folder {report.data.folder}"))
    if accuracy.suspicion:
        rows.append(("Plausibility", "SUSPICIOUS", accuracy.suspicion))
    if test := report.mcnemar:
        only = f"correct in the file only: {test.only_file}, in PyTorch only: {test.only_reference}"
        differs = test.p_value < SIGNIFICANT
        result = "SIGNIFICANT DIFFERENCE between the file and PyTorch" if differs else "no significant difference"
        rows.append(("Difference to PyTorch", f"{test.difference:+.2f} points", only))
        rows.append(("McNemar's exact test", f"p = {test.p_value:.3g}", result))
    else:
        rows.append(("Difference to PyTorch", NOT_MEASURED, "pass --reference to compare on the same images"))
    plot = agreement_plot(report.mcnemar) if report.mcnemar else ""
    return Section("Accuracy", tuple(rows), "with 95 % Wilson confidence intervals", plot)


def _class_section(found: Diagnostics) -> Section:
    """Accuracy of each class, the lowest first."""
    present = [each for each in found.per_class if each.accuracy is not None]
    present.sort(key=lambda each: (each.accuracy or 0.0, -each.images))
    accuracies = [each.accuracy or 0.0 for each in present]
    rows = [
        (
            "Mean over the classes",
            f"{sum(accuracies) / len(present):.2f} %",
            "balanced accuracy: each class counts equally",
        ),
        ("Lowest of a class", f"{accuracies[0]:.2f} %", present[0].label),
        ("Highest of a class", f"{accuracies[-1]:.2f} %", present[-1].label),
    ]
    if absent := len(found.per_class) - len(present):
        rows.append(("Classes without images", str(absent), f"of {len(found.per_class)}"))
    cells = tuple(
        (each.label, f"{each.accuracy:.2f}", interval(each.interval or (0.0, 0.0)), str(each.correct), str(each.images),
         str(each.predicted))
        for each in present
    )  # fmt: skip
    header = ("class", "accuracy, %", "95 % interval", "correct", "images", "predicted as it")
    table = Table(header, cells, short=SHORT)
    return Section(
        "Classes", tuple(rows), "share of the images of each class that are classified correctly", table=table
    )


def _confusion_section(found: Diagnostics) -> Section:
    """The most frequent confusions, and the confusion matrix of few classes."""
    wrong = sum(each.images - each.correct for each in found.per_class)
    rows: tuple[Row, ...] = (("Wrong images", str(wrong), f"of {sum(each.images for each in found.per_class)}"),)
    cells = tuple(
        (each.label, each.predicted, str(each.images), f"{each.share:.1f}") for each in found.confusions[:PAIRS]
    )
    header = ("class", "classified as", "images", "of the class, %")
    labels = [each.label for each in found.per_class]
    return Section(
        "Confusions",
        rows,
        "the most frequent confusions",
        matrix_plot(found.confusion_matrix, labels) if found.confusion_matrix else "",
        Table(header, cells, words=2, short=SHORT) if cells else None,
    )


def _probability_section(found: Diagnostics, accuracy: Accuracy) -> Section:
    """Calibration and likelihood of the softmax probabilities."""
    excess = 100 * found.mean_confidence - accuracy.top1
    state = "overconfident" if excess > 0 else "underconfident"
    guess = math.log(accuracy.classes)
    bins = len(found.reliability.images)
    rows = (
        ("Expected calibration error", f"{100 * found.expected_calibration_error:.2f} %",
         f"mean |accuracy - confidence| over {bins} bins of equal width; 0 is best"),
        ("Mean confidence", f"{100 * found.mean_confidence:.2f} %", f"{state} by {abs(excess):.2f} points"),
        ("Negative log-likelihood", f"{found.negative_log_likelihood:.4f}",
         f"nats per image; equal probabilities have {guess:.4f}"),
    )  # fmt: skip
    plot = reliability_plot(found.reliability)
    return Section("Probabilities", rows, "softmax of the logits; confidence: that of the predicted class", plot)


def _mistake_section(found: Diagnostics, thumbnails: tuple[str, ...]) -> Section:
    """The wrongly classified images with the highest confidence."""
    cells = tuple(
        (each.file, each.label, each.predicted, f"{100 * each.confidence:.1f}", f"{100 * each.probability:.2g}")
        for each in found.mistakes
    )
    captions = (f"{each.label} as {each.predicted}, {100 * each.confidence:.0f} %" for each in found.mistakes)
    header = ("file", "class", "classified as", "confidence, %", "of the class, %")
    return Section(
        "Most confident mistakes",
        (),
        "check the labels of these images first",
        table=Table(header, cells, words=3, short=SHORT),
        gallery=tuple(zip(thumbnails, captions, strict=True)) if thumbnails else (),
    )


def _robustness_section(found: Robustness) -> Section:
    """Top-1 under each corruption and severity."""
    kinds = list(dict.fromkeys((each.corruption, each.parameter) for each in found.corrupted))
    by_kind = {name: [each for each in found.corrupted if each.corruption == name] for name, _ in kinds}
    rows = [
        ("Without corruption", f"{found.clean_top1:.2f} %", f"top-1 on {found.images} images"),
        ("Mean under corruption", f"{found.mean_top1:.2f} %",
         f"top-1 over {len(kinds)} corruptions of {len(next(iter(by_kind.values())))} severities, seed {found.seed}"),
        ("Comparable with", "this package only", "these are not the files or parameters of ImageNet-C"),
        *((name, ", ".join(f"{each.value:g}" for each in by_kind[name]), parameter) for name, parameter in kinds),
    ]  # fmt: skip
    severities = [each.severity for each in by_kind[kinds[0][0]]]
    cells = []
    for name, _ in kinds:
        values = [each.top1 for each in by_kind[name]]
        cells.append((name, *(f"{value:.2f}" for value in (*values, sum(values) / len(values)))))
    header = ("top-1 %, by severity", *map(str, severities), "mean")
    remark = "corruptions of the resized and cropped image, with the parameter of each severity"
    return Section("Robustness", tuple(rows), remark, robustness_plot(found), Table(header, tuple(cells)))
