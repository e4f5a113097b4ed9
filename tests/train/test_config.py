import subprocess
import sys

import pytest
import yaml

from alphanet_zoo.errors import UsageError
from alphanet_zoo.recipes import shipped_recipes
from alphanet_zoo.train.config import TrainConfig, load_config, valid_keys
from alphanet_zoo.train.loop import train


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_shipped_recipe_is_valid_and_survives_yaml(recipe, tmp_path):
    config = load_config(recipe)
    stored = tmp_path / "config.yaml"
    stored.write_text(config.to_yaml())
    assert load_config(str(stored)) == config
    assert config.to_yaml().startswith("output:")


def test_digits_ships():
    assert "digits" in shipped_recipes()


def test_overrides_reach_every_section_and_keep_their_types():
    config = load_config("digits", [
        "output=123", "seed=7", "max_steps=null", "optim.lr=1e-1", "data.shift=0", "log.tensorboard=true",
        "sandwich.loss=kl", "optim.lr_batch=256", "optim.clip_value=null",
    ])  # fmt: skip
    assert (config.output, config.seed, config.max_steps) == ("123", 7, None)
    assert (config.optim.lr, config.optim.lr_batch, config.optim.clip_value) == (0.1, 256, None)
    assert (config.data.shift, config.log.tensorboard, config.sandwich.loss) == (0.0, True, "kl")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sandwich.loss=none", "none"),
        ("optim.lr=1e-4", 1e-4),
        ("optim.lr=.1", 0.1),
        ("optim.lr=1", 1.0),
        ("optim.clip_value=null", None),
        ("max_steps=None", None),
        ("output=no", "no"),
        ("output=0x10", "0x10"),
        ("output=a: b #c", "a: b #c"),
        ("output={a}", "{a}"),
        ("data.train=train-{0000..1280}.tar", "train-{0000..1280}.tar"),
        ("sandwich.resolution_schedule=[[0.6, 16], [0.4, 32]]", ((0.6, 16), (0.4, 32))),
        ("sandwich.resolution_schedule=[]", ()),
        ("validation.archs=smallest,largest", ("smallest", "largest")),
        ("validation.archs=[smallest]", ("smallest",)),
        ("log.tensorboard=yes", True),
    ],
)
def test_values_of_overrides(override, expected):
    value = load_config("digits", [override])
    for name in override.partition("=")[0].split("."):
        value = getattr(value, name)
    assert value == expected and type(value) is type(expected)


def test_the_last_override_of_a_key_counts():
    assert load_config("digits", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optim.lrr=1", "did you mean optim.lr?"),
        ("lr=1", "did you mean optim.lr?"),
        ("batch_size=4", "did you mean data.batch_size?"),
        ("max_step=1", "did you mean max_steps?"),
        ("optim=1", "unknown setting 'optim'"),
        ("seed.x=1", "unknown setting 'seed.x'"),
        ("seed", "write key=value"),
        ("=1", "write key=value"),
        ("seed=1.5", "seed"),
        ("seed=-1", "seed"),
        ("optim.lr=fast", "optim.lr"),
        ("optim.lr=nan", "optim.lr"),
        ("optim.lr=inf", "optim.lr"),
        ("optim.lr=0", "optim.lr"),
        ("output=", "output"),
        ("log.tensorboard=perhaps", "log.tensorboard"),
        ("sandwich.loss=mse", "adaptive_alpha"),
        ("sandwich.alpha_min=2", "alpha_min must be smaller"),
        ("optim.warmup_epochs=5000", "pass less than epochs (14)"),
        ("space=alphabet", "alphanet_tiny"),
        ("space=nowhere.yaml", "no such file: nowhere.yaml"),
        (
            "data.image_size=8",
            "the space alphanet_tiny has resolutions from 12 to 16; pass data.image_size=0 to use 16",
        ),
        ("budget=much", "budget"),
        ("checkpoints_kept=1", "checkpoints_kept"),
        ("data.batch_size=null", "data.batch_size"),
        ("optim.kernels=fast", "compiled"),
    ],
)
def test_a_wrong_override_is_refused_by_name(override, named):
    with pytest.raises(UsageError) as error:
        load_config("digits", [override])
    assert named in str(error.value)


def test_a_wrong_recipe_is_refused(tmp_path):
    with pytest.raises(UsageError, match="did you mean digits?"):
        load_config("digit")
    with pytest.raises(UsageError, match="no recipe or file named 'mine.yaml'.*slimmable_mobilenet_v2_imagenet$"):
        load_config("mine.yaml")  # A missing file is not a mistyped name, so no recipe is suggested.
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UsageError, match="does not contain a mapping"):
        load_config(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(UsageError, match="is not valid YAML"):
        load_config(str(tmp_path / "broken.yaml"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optim": 3}, "optim"),
        ({"sead": 3}, "did you mean seed?"),
        ({"optim": {"lr": 0.1, "epoch": 3}}, "did you mean optim.epochs?"),
        ({"data": None}, "data"),
        ({"optim": {"lr": 0.1}}, "optim.epochs is missing"),
    ],
)
def test_a_wrong_key_in_a_file_is_refused_by_name(change, named, tmp_path):
    tree = yaml.safe_load(load_config("digits").to_yaml()) | change
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(UsageError) as error:
        load_config(str(path))
    assert named in str(error.value)


def test_an_override_into_a_section_that_the_file_spoils_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("optim: 3\n")
    with pytest.raises(UsageError, match="it must be a mapping of settings"):
        load_config(str(path), ["optim.lr=1"])


def test_differences_name_what_touches_the_weights_and_nothing_else():
    config = load_config("digits")
    free = load_config("digits", ["output=x", "max_steps=3", "log.progress=false", "checkpoint_every_steps=1"])
    assert config.differences(free) == []
    assert config.differences(load_config("digits", ["optim.lr=0.7"])) == [f"optim.lr: {config.optim.lr} -> 0.7"]


def test_every_setting_is_documented():
    def undocumented(section, prefix=""):
        for name, field in section.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                yield from undocumented(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                yield prefix + name

    assert not list(undocumented(TrainConfig))
    assert {"output", "seed", "max_steps", "checkpoint_every_steps", "data.root", "optim.lr"} <= set(valid_keys())


def test_the_config_loads_no_torch():
    code = "import sys, alphanet_zoo.train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("settings", [
    ["finetune.weights=net.safetensors", "optim.cuda_graphs=true"],
    ["distributed.sync_bn=true", "optim.cuda_graphs=true"],
])  # fmt: skip
def test_cuda_graphs_are_for_supernets_without_messages_in_a_pass(settings):
    with pytest.raises(UsageError, match=r"pass\s+optim.cuda_graphs=false"):
        load_config("digits", settings)


def test_cuda_graphs_and_compile_exclude_each_other():
    with pytest.raises(UsageError, match="compile and cuda_graphs cannot be combined"):
        load_config("digits", ["optim.compile=true", "optim.cuda_graphs=true"])


def test_cuda_graphs_require_a_gpu(tmp_path):
    config = load_config("digits", [f"output={tmp_path / 'run'}", "optim.cuda_graphs=true", "device=cpu"])
    with pytest.raises(UsageError, match="optim.cuda_graphs requires a GPU, and the run is on cpu"):
        train(config)
