import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.losses import KLDistillation, LabelSmoothedCrossEntropy
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.search.front import write_arch, write_front
from alphanet_zoo.space.presets import ALPHANET, ALPHANET_TINY, IMAGENET_FAMILY
from alphanet_zoo.train.build import build_losses, build_net, named_arch
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.gradients import Gradients
from alphanet_zoo.train.loop import train
from alphanet_zoo.train.sandwich import Losses, SandwichStep
from alphanet_zoo.zoo.files import load_net, save_net

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        for index in range(16):
            path = folder / split / "ab"[index % 2] / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((16, 16), 40 + 150 * (index % 2) + index, dtype=np.uint8)).save(path)
    return folder


def config(root, output, *overrides):
    return load_config("digits", [
        f"data.root={root}", "data.source=folder", f"output={output}", "data.batch_size=8", "optim.epochs=6",
        "optim.warmup_epochs=0", "log.progress=false", "device=cpu", *overrides,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def supernet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "supernet.safetensors"
    net = fill_live(build_supernet(ALPHANET_TINY, 10))
    net.calibration = None
    save_net(net, path)
    return path


def test_archs_have_names():
    assert named_arch("smallest", ALPHANET_TINY) == ALPHANET_TINY.smallest
    assert named_arch("alphanet_a6", ALPHANET) == IMAGENET_FAMILY[-1].arch
    assert named_arch("alphanet_a5_small", ALPHANET) == named_arch("alphanet_a5", ALPHANET)
    with pytest.raises(UsageError, match="alphanet_a0 is not an arch of the space alphanet_tiny"):
        named_arch("alphanet_a0", ALPHANET_TINY)
    with pytest.raises(UsageError, match=r"^finetune.arch: no such file or model: 'smalest'; pass a JSON file"):
        named_arch("smalest", ALPHANET_TINY, "finetune.arch")


def test_an_arch_may_come_from_the_file_that_a_search_writes(tmp_path):
    write_arch(tmp_path / "best.json", ALPHANET_TINY.smallest.to_dict())
    assert named_arch(str(tmp_path / "best.json"), ALPHANET_TINY) == ALPHANET_TINY.smallest
    assert named_arch(ALPHANET_TINY.smallest.to_dict(), ALPHANET_TINY) == ALPHANET_TINY.smallest
    with pytest.raises(UsageError, match=r"validation.archs: .*the space alphanet has"):
        named_arch(str(tmp_path / "best.json"), ALPHANET, "validation.archs")
    write_front(tmp_path / "front.json", [{"arch": ALPHANET_TINY.smallest.to_dict()}] * 2)
    for name, reason in (("none.json", "no such file or model"), ("front.json", "Pareto front of 2 archs")):
        with pytest.raises(UsageError, match=reason):
            named_arch(str(tmp_path / name), ALPHANET_TINY)


def test_a_subnet_is_fine_tuned_and_ends_as_a_static_net_with_statistics(root, supernet_file, tmp_path):
    settings = config(root, tmp_path / "run", f"finetune.weights={supernet_file}", "finetune.arch=smallest",
                      "validation.every_epochs=3")  # fmt: skip
    before = build_net(settings, ["a", "b"])
    sliced = load_net(supernet_file).extract(ALPHANET_TINY.smallest).state_dict()
    assert all(
        torch.equal(tensor, sliced[name]) for name, tensor in before.state_dict().items() if "classifier" not in name
    )
    result = train(settings)
    net = load_net(result.model)
    assert not net.supernet and net.arch == ALPHANET_TINY.smallest and net.calibration == "training"
    assert net.pretrained_cfg["label_names"] == ("a", "b") and net.num_classes == 2
    again = config(root, tmp_path / "again", f"finetune.weights={result.model}")
    assert torch.equal(build_net(again, ["a", "b"]).classifier.weight, net.classifier.weight)
    assert not torch.equal(build_net(again, ["a", "c"]).classifier.weight, net.classifier.weight)


def test_a_whole_supernet_is_trained_further_from_its_weights(root, supernet_file, tmp_path):
    settings = config(root, tmp_path / "run", f"finetune.weights={supernet_file}", "finetune.arch=supernet",
                      "optim.epochs=1", "validation.every_epochs=1")  # fmt: skip
    before, source = build_net(settings, ["a", "b"]), load_net(supernet_file)
    assert before.supernet and before.num_classes == 2
    kept = [name for name in source.state_dict() if "classifier" not in name]
    assert kept and all(torch.equal(before.state_dict()[name], source.state_dict()[name]) for name in kept)
    result = train(settings)
    trained = load_net(result.model)
    assert trained.supernet and trained.space == ALPHANET_TINY and set(result.validation) == {"smallest", "largest"}
    assert any(not torch.equal(trained.state_dict()[name], before.state_dict()[name]) for name in kept)
    save_net(source.extract(ALPHANET_TINY.smallest), tmp_path / "static.safetensors")
    static = config(root, tmp_path, f"finetune.weights={tmp_path / 'static.safetensors'}", "finetune.arch=supernet")
    with pytest.raises(UsageError, match=r"contains a single subnet; remove finetune.arch=supernet"):
        build_net(static, ["a", "b"])


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["finetune.weights={}"], "finetune.arch"),
        (
            ["finetune.weights={}", "finetune.arch=smallest", "space=alphanet_cifar", "data.image_size=0"],
            "set space=net",
        ),
        (["finetune.weights={}", "finetune.arch=tiniest"], "tiniest"),
        (["finetune.arch=smallest"], "no effect without weights"),
        (["finetune.weights=/nowhere.safetensors"], "/nowhere.safetensors"),
        (["sandwich.teacher={}"], "has no batch-norm statistics"),
    ],
)
def test_files_that_do_not_match_the_config_are_refused(overrides, named, root, supernet_file, tmp_path):
    with pytest.raises(UsageError, match=named):
        settings = config(root, tmp_path, *(text.format(supernet_file) for text in overrides))
        build_net(settings, ["a", "b"])
        build_losses(settings, ["a", "b"], CPU)


def test_the_largest_subnet_learns_from_an_external_teacher(root, supernet_file, tmp_path):
    teacher = load_net(supernet_file).extract(ALPHANET_TINY.smallest)
    calibrate(teacher, [torch.randn(8, 3, 16, 16)])
    path = tmp_path / "teacher.safetensors"
    save_net(teacher, path)
    settings = config(root, tmp_path / "run", f"sandwich.teacher={path}", "sandwich.teacher_share=0.25")
    classes = [str(i) for i in range(10)]
    losses = build_losses(settings, classes, CPU)
    with pytest.raises(UsageError, match="has 10 classes, which it does not name, and the images have 2"):
        build_losses(settings, ["a", "b"], CPU)
    torch.manual_seed(0)
    net = fill_live(AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 10, supernet=True)).train()
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    with torch.no_grad():
        logits, target = net(images), teacher(images)
        expected = 0.75 * LabelSmoothedCrossEntropy(0.1)(logits, labels) + 0.25 * KLDistillation()(logits, target)
    step = SandwichStep(
        net, torch.optim.SGD(net.parameters(), 0.1, fused=True), Gradients(net), losses, Ranks(0, 1, CPU)
    )
    outcome = step([(images, labels)], {"largest": net.arch})
    assert float(outcome.micro_batches[0][0].loss) == pytest.approx(float(expected), rel=1e-5)
    assert outcome.label_loss == pytest.approx(float(LabelSmoothedCrossEntropy(0.1)(logits, labels)), rel=1e-5)


def test_gradients_lie_in_one_buffer_that_keeps_what_backward_passes_add():
    torch.manual_seed(0)
    net = build_supernet(ALPHANET_TINY, 10).train().to(memory_format=torch.channels_last)
    fill_live(net)
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)

    def backward():
        for arch in (ALPHANET_TINY.largest, ALPHANET_TINY.smallest):
            F.cross_entropy(net(images, arch), labels).backward()
        return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}

    expected = backward()
    gradients = Gradients(net)
    assert not gradients.flat.any()
    for _ in range(2):
        gradients.zero()
        for name, gradient in backward().items():
            torch.testing.assert_close(gradient, expected[name])
    assert sum(int(gradient.count_nonzero()) for gradient in expected.values()) == int(gradients.flat.count_nonzero())
    gradients.clip(0.01)
    assert float(net.classifier.weight.grad.abs().max()) == pytest.approx(0.01)
    ranks, finite = Ranks(0, 1, CPU), torch.tensor(True)
    report = gradients.average(ranks, torch.tensor(2.5), finite, interrupted=True, terminated=False)
    assert report.tolist() == [2.5, 0.0, 1.0, 0.0]
    net.classifier.weight.grad[0, 0] = float("inf")
    report = gradients.average(ranks, torch.tensor(2.5), finite, interrupted=False, terminated=True)
    assert report.tolist() == [2.5, 1.0, 0.0, 1.0]


def test_the_report_of_a_step_that_is_not_finite_changes_nothing():
    torch.manual_seed(0)
    net = fill_live(build_supernet(ALPHANET_TINY, 10)).train()
    step = SandwichStep(net, torch.optim.SGD(net.parameters(), 1.0, fused=True), Gradients(net),
                        Losses(LabelSmoothedCrossEntropy(0.1)), Ranks(0, 1, CPU))  # fmt: skip
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    outcome = step([(torch.full((2, 3, 16, 16), float("inf")), torch.arange(2))], {"largest": net.arch})
    assert not outcome.finite
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
