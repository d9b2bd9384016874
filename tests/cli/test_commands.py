"""The command, in this process: what each command prints, and with which exit code it ends."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import bridge_core
from bridge_core.cli import main
from bridge_core.cli.report import size_text
from bridge_core.messages import fold_names
from bridge_core.plugins.registry import PluginFailure, Registry

COMMANDS = ["inspect", "plan", "convert", "verify", "diff", "prove", "explain", "rules", "plugins"]


def run(*args):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def document(result):
    """Parse stdout as one strict JSON document."""

    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    return json.loads(result.out, parse_constant=refuse)


def tensors(layers=3):
    values = np.random.default_rng(7)
    made = {}
    for i in range(layers):
        made[f"layers.{i}.fc.weight"] = values.normal(size=(4, 6)).astype("f4")
        made[f"layers.{i}.fc.bias"] = values.normal(size=4).astype("f4")
    return made


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path, metadata={"format": "pt", "author": "me"})
    return path


@pytest.fixture
def undecided(tmp_path):
    path = tmp_path / "undecided.safetensors"
    save_file({**tensors(), "tok_embeddings.weight": np.ones((5, 4), "f4")}, path)
    return path


@pytest.fixture
def converted(source, tmp_path):
    path = tmp_path / "model.msgpack"
    assert run("convert", source, path, "--to", "flax", "--quiet").code == 0
    return path


def test_help_lists_the_commands_and_the_exit_codes():
    result = run("--help")
    assert result.code == 0
    places = [result.out.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    for text in ("0 done", "1 refused", "2 usage", "3 bad", "4 the", "130 interrupted"):
        assert text in " ".join(result.out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_examples(command):
    result = run(command, "--help")
    assert result.code == 0
    assert f"  ckptbridge {command}" in result.out.split("Examples:")[1]


def test_version():
    from importlib.metadata import version

    assert run("--version").out == f"ckptbridge {version('ckptbridge')}\n"


class TestInspect:
    def test_json_describes_every_tensor(self, source):
        found = document(run("inspect", source, "--json"))
        assert {name: found[name] for name in ("format", "layout", "total_bytes")} == {
            "format": "safetensors",
            "layout": "torch",
            "total_bytes": 3 * (24 + 4) * 4,
        }
        assert found["metadata"]["extra"] == {"author": "me"}
        assert found["tensors"]["layers.1.fc.weight"] == {
            "dtype": "float32",
            "shape": [4, 6],
            "bytes": 96,
            "file": "model.safetensors",
            "axes": ["out", "in"],
        }
        assert len(found["tensors"]) == 6

    def test_json_names_the_shard_of_each_tensor(self, source, tmp_path):
        with bridge_core.open_state(source) as state:
            bridge_core.save_state(state, tmp_path / "set", max_shard_size=120)
        found = document(run("inspect", tmp_path / "set", "--json"))["tensors"]
        for name, entry in found.items():
            assert name in load_file(tmp_path / "set" / entry["file"])
        assert len({entry["file"] for entry in found.values()}) > 1

    def test_tied_names_stand_where_the_kept_tensor_does(self, tmp_path):
        kept, other = bridge_core.state.as_tensor(np.ones((8, 8), "f4")), np.zeros((8, 8), "f4")
        state = bridge_core.FlatState(
            {("a",): kept, ("b",): other, ("z",): kept},
            layout="torch",
            metadata=bridge_core.StateMetadata(ties={("z",): ("a",)}),
        )
        bridge_core.save_state(state, tmp_path / "set", format="safetensors", max_shard_size=256)
        found = document(run("inspect", tmp_path / "set", "--json"))
        assert found["metadata"]["ties"] == {"z": "a"}
        assert found["tensors"]["z"]["file"] == found["tensors"]["a"]["file"]
        assert found["tensors"]["z"]["file"] != found["tensors"]["b"]["file"]
        assert found["total_bytes"] == 512
        assert "  z = a" in run("inspect", tmp_path / "set").out

    def test_json_tells_what_is_known_of_layers(self, undecided, tmp_path):
        assert run("convert", undecided, tmp_path / "n.safetensors", "--to", "neutral").code == 0
        found = document(run("inspect", tmp_path / "n.safetensors", "--json"))
        assert found["layout"] == "neutral"
        assert found["metadata"]["layers"]["layers.0.fc"]["kind"] == "linear"
        assert found["metadata"]["layers"]["tok_embeddings"]["kind"] is None
        assert "torch.embedding" in found["metadata"]["layers"]["tok_embeddings"]["candidates"]
        text = run("inspect", tmp_path / "n.safetensors").out
        assert "  linear: 3" in text
        assert "undecided (torch.linear or torch.embedding" in text

    def test_text_folds_names_and_sums_bytes(self, source):
        text = run("inspect", source).out
        rows = [line.split() for line in text.splitlines()]
        assert ["layers.{0..2}.fc.weight", "float32", "[4,", "6]", "[out,", "in]", "288", "x3"] in rows
        assert "6 tensors, 336 bytes" in text
        assert "  author: me" in text

    def test_equal_names_of_other_shapes_are_not_folded(self, tmp_path):
        save_file({"h.0": np.zeros(2, "f4"), "h.1": np.zeros(3, "f4")}, tmp_path / "m.safetensors")
        text = run("inspect", tmp_path / "m.safetensors", "--layout", "torch").out
        assert "\nh.0 " in text
        assert "\nh.1 " in text

    def test_long_names_are_never_cut(self, tmp_path):
        name = ".".join(["a_rather_long_part_of_a_name"] * 12)
        save_file({name: np.zeros(2, "f4")}, tmp_path / "m.safetensors")
        assert f"\n{name}  float32" in run("inspect", tmp_path / "m.safetensors").out

    def test_the_reason_for_the_layout_is_shown_or_how_to_give_it(self, source, converted, tmp_path):
        np.savez(tmp_path / "x.npz", **{"x.thing": np.ones(3)})
        assert "safetensors, torch layout, recorded in the file\n" in run("inspect", source).out
        save_file(tensors(), source)
        assert "torch layout, the only layout that the keys match\n" in run("inspect", source).out
        assert "flax layout, recorded in the file\n" in run("inspect", converted).out
        assert "flax layout, as given\n" in run("inspect", source, "--layout", "flax").out
        assert "--layout torch" in run("inspect", tmp_path / "x.npz").out
        reason = "the only layout that the keys match"
        assert f"source layout: torch, {reason}\n" in run("plan", source, "--to", "flax").out
        assert document(run("plan", source, "--to", "flax", "--json"))["layout_reason"] == reason
        done = run("convert", source, tmp_path / "o.msgpack", "--to", "flax")
        assert f"source layout: torch, {reason}\n" in done.out

    def test_names_cannot_command_the_terminal(self, tmp_path):
        save_file({"a\x1b[2J\n\u202eb": np.zeros(2, "f4")}, tmp_path / "m.safetensors")
        result = run("inspect", tmp_path / "m.safetensors")
        assert "a\\x1b[2J\\n\\u202eb" in result.out
        assert "\x1b" not in result.out

    def test_reads_no_tensor(self, source, monkeypatch):
        def refuse(*_):
            raise AssertionError("a tensor was read")

        monkeypatch.setattr(bridge_core.FileTensor, "read", refuse)
        assert run("inspect", source).code == 0

    def test_layout_and_format_can_be_given(self, source):
        found = document(run("inspect", source, "--json", "--layout", "flax", "--format", "safetensors"))
        assert found["layout"] == "flax"
        assert run("inspect", source, "--format", "torch").code == 3


class TestPlan:
    def test_json_has_the_steps(self, source):
        found = document(run("plan", source, "--to", "flax", "--json"))
        assert {"steps", "dropped", "missing", "unexpected", "ambiguous", "exact"} <= found.keys()
        (step,) = [s for s in found["steps"] if s["sources"] == ["layers.0.fc.weight"]]
        assert {**step, "ops": [op["op"] for op in step["ops"]]} == {
            "sources": ["layers.0.fc.weight"],
            "targets": ["layers.0.fc.kernel"],
            "ops": ["permute"],
            "kind": "linear",
            "evidence": "structure",
            "exact": True,
        }

    def test_text_is_folded(self, source):
        result = run("plan", source, "--to", "flax")
        assert result.code == 0
        assert "layers.{0..2}.fc.weight -> layers.{0..2}.fc.kernel" in result.out
        assert "exact: yes" in result.out

    def test_one_that_cannot_be_run_is_shown_and_refused(self, undecided):
        result = run("plan", undecided, "--to", "flax", "--json")
        assert result.code == 1
        assert "embedding" in document(result)["ambiguous"]["tok_embeddings.weight"]
        assert result.err.startswith("error: ")
        text = run("plan", undecided, "--to", "flax")
        assert text.code == 1
        assert "ambiguous: tok_embeddings.weight" in text.out
        assert "exact:" not in text.out

    def test_a_template_that_does_not_fit_lists_all_problems(self, source, converted, tmp_path):
        other = tensors(2) | {"extra.weight": np.ones((2, 2), "f4"), "extra.bias": np.ones(2, "f4")}
        save_file(other, tmp_path / "other.safetensors")
        asked = ("plan", tmp_path / "other.safetensors", "--to", "flax", "--like", converted)
        result = run(*asked, "--json")
        assert result.code == 1
        found = document(result)
        assert sorted(found["missing"]) == ["layers.2.fc.bias", "layers.2.fc.kernel"]
        assert sorted(found["unexpected"]) == ["extra.bias", "extra.weight"]
        assert "--allow-missing" in result.err
        allowed = run(*asked, "--allow-missing", "layers.2.**", "--allow-unexpected", "extra.*")
        assert allowed.code == 0


class TestConvert:
    def test_writes_and_sums_up(self, source, tmp_path):
        result = run("convert", source, tmp_path / "out.msgpack", "--to", "flax")
        assert result.code == 0
        assert result.err == ""
        assert "torch -> flax: 6 tensors" in result.out
        assert f"wrote {tmp_path / 'out.msgpack'} (msgpack)" in result.out
        assert "evidence: structure 6" in result.out
        assert "exact: yes\nverified: yes\n" in result.out
        with bridge_core.open_state(tmp_path / "out.msgpack") as state:
            assert np.array_equal(state["layers", "2", "fc", "kernel"], tensors()["layers.2.fc.weight"].T)

    def test_json_is_the_report_and_nothing_else(self, source, tmp_path):
        result = run("convert", source, tmp_path / "out.msgpack", "--to", "flax", "--json", "--no-verify")
        assert result.err == ""
        found = document(result)
        assert found["files"] == [str(tmp_path / "out.msgpack")]
        assert found["verified"] is False

    def test_quiet_prints_nothing(self, source, tmp_path):
        result = run("convert", source, tmp_path / "out.msgpack", "--to", "flax", "--quiet")
        assert (result.code, result.out, result.err) == (0, "", "")

    def test_undecided_layers_are_refused_with_their_options(self, undecided, tmp_path):
        result = run("convert", undecided, tmp_path / "out.msgpack", "--to", "flax")
        assert result.code == 1
        assert result.out == ""
        for text in ("tok_embeddings.weight", "linear", "embedding", "--like", "--model", "--accept-guesses"):
            assert text in result.err
        assert not (tmp_path / "out.msgpack").exists()

    def test_guesses_are_reported(self, undecided, tmp_path):
        asked = ("convert", undecided, tmp_path / "out.msgpack", "--to", "flax", "--accept-guesses")
        result = run(*asked)
        assert result.code == 0
        assert "guessed:\n  tok_embeddings.embedding\n" in result.out
        assert document(run(*asked, "--overwrite", "--json"))["guessed"] == ["tok_embeddings.embedding"]

    def test_dropped_tensors_are_listed_folded_with_the_reason(self, tmp_path):
        made = tensors(2)
        for i in range(2):
            for name in ("weight", "bias", "running_mean", "running_var"):
                made[f"layers.{i}.bn.{name}"] = np.ones(4, "f4")
            made[f"layers.{i}.bn.num_batches_tracked"] = np.array(3)
        save_file(made, tmp_path / "bn.safetensors")
        result = run("convert", tmp_path / "bn.safetensors", tmp_path / "bn.msgpack", "--to", "flax")
        out = run("explain", tmp_path / "bn.safetensors", "**.num_batches_tracked", "--to", "flax").out
        assert "target   (metadata)\n" in out
        assert "why      residual: " in out
        assert "dropped:\n  layers.{0..1}.bn.num_batches_tracked (stored in the metadata)  x2\n" in result.out

    def test_shards_dtype_and_format(self, source, tmp_path):
        result = run(
            "convert", source, tmp_path / "set", "--to", "flax", "--format", "safetensors",
            "--max-shard-size", "0.06kB", "--dtype", "bfloat16", "--workers", "2", "--max-ram", "8MB",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert "exact: no" in result.out
        assert "wrote 4 files (safetensors)\n" in result.out
        assert f"  {tmp_path}/set/model-{{00001..00003}}-of-00003.safetensors  x3\n" in result.out
        with bridge_core.open_state(tmp_path / "set") as state:
            assert state.spec(("layers", "0", "fc", "kernel")).dtype.name == "bfloat16"

    def test_an_existing_destination_needs_overwrite(self, source, converted):
        before = converted.read_bytes()
        refused = run("convert", source, converted, "--to", "flax")
        assert refused.code == 1
        assert str(converted) in refused.err
        assert run("convert", source, converted, "--to", "flax", "--overwrite").code == 0
        assert converted.read_bytes() == before

    def test_what_a_model_prints_does_not_reach_stdout(self, source, tmp_path, monkeypatch):
        (tmp_path / "printing_model.py").write_text(
            "import numpy as np\n"
            "def make():\n"
            "    print('building')\n"
            "    return {('layers', '0', 'fc', 'weight'): np.ones((4, 6)),"
            " ('layers', '0', 'fc', 'bias'): np.ones(4)}\n"
        )
        monkeypatch.chdir(tmp_path)
        result = run("plan", source, "--to", "flax", "--model", "printing_model:make", "--json")
        assert "building" in result.err
        assert document(result)["steps"]


class TestVerify:
    def test_equal(self, source, converted):
        result = run("verify", source, converted)
        assert result.code == 0
        assert result.out.startswith("equal: 6 tensors")
        assert document(run("verify", source, converted, "--json"))["equal"] is True

    def test_one_changed_bit_is_found(self, source, converted, tmp_path):
        changed = tensors()
        changed["layers.1.fc.weight"].view("u4")[2, 3] ^= 1
        save_file(changed, tmp_path / "changed.safetensors")
        result = run("verify", tmp_path / "changed.safetensors", converted)
        assert result.code == 1
        assert "! layers.1.fc.kernel: 1 element of float32[6, 4] differ" in result.out
        assert "different: 1 differ; 6 tensors" in result.out
        found = document(run("verify", tmp_path / "changed.safetensors", converted, "--json"))
        assert found["equal"] is False
        assert [d["key"] for d in found["differing"]] == ["layers.1.fc.kernel"]

    def test_the_cast_that_was_asked_for(self, source, tmp_path):
        target = tmp_path / "half.msgpack"
        assert run("convert", source, target, "--to", "flax", "--dtype", "float16").code == 0
        assert run("verify", source, target).code == 1
        assert run("verify", source, target, "--dtype", "float16").code == 0


class TestDiff:
    def test_equal_over_formats(self, source, tmp_path):
        bridge_core.save_state(tensors(), tmp_path / "model.npz", format="npz")
        result = run("diff", source, tmp_path / "model.npz")
        assert result.code == 0
        assert result.out.startswith("equal: 6 tensors")

    def test_lists_names_shapes_and_values(self, source, tmp_path):
        other = tensors()
        del other["layers.0.fc.bias"]
        other["new"] = np.ones(1, "f4")
        other["layers.1.fc.bias"] = np.ones(5, "f4")
        for i in (0, 1):
            other[f"layers.{i}.fc.weight"] = other[f"layers.{i}.fc.weight"] + np.float32(i + 1)
        save_file(other, tmp_path / "other.safetensors")
        result = run("diff", source, tmp_path / "other.safetensors")
        assert result.code == 1
        *lines, summary = result.out.splitlines()
        assert summary.startswith("different: 1 only in A, 1 only in B, 3 differ; 5 tensors, ")
        assert [line.partition(" (error ")[0] for line in lines] == [
            "3 tensors differ: 1 as if shifted by 1, as 1 + scale is of scale; 1 as if shifted by 2; "
            "1 in no way that is known",
            "< layers.0.fc.bias",
            "> new",
            "! layers.0.fc.weight: 24 elements of float32[4, 6] differ, by at most 1, as if shifted by 1, "
            "as 1 + scale is of scale",
            "! layers.1.fc.bias: float32[4] in A, float32[5] in B",
            "! layers.1.fc.weight: 24 elements of float32[4, 6] differ, by at most 2, as if shifted by 2",
        ]

    def test_json_stays_json_where_values_are_not_finite(self, tmp_path):
        save_file({"a": np.array([1.0, 2.0], "f4")}, tmp_path / "a.safetensors")
        save_file({"a": np.array([1.0, np.nan], "f4")}, tmp_path / "b.safetensors")
        result = run("diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--json")
        assert result.code == 1
        (found,) = document(result)["differing"]
        assert (found["elements"], found["largest"]) == (1, "Infinity")


class TestExplain:
    def test_a_source_key(self, source):
        result = run("explain", source, "layers.1.fc.weight", "--to", "flax")
        assert result.code == 0
        rows = dict(line.split(maxsplit=1) for line in result.out.splitlines())
        assert rows["source"] == "layers.1.fc.weight  float32[4, 6]"
        assert rows["target"] == "layers.1.fc.kernel  float32[6, 4]"
        assert rows["kind"] == "linear"
        assert rows["why"].startswith("structure: ")
        assert "evidence 5 of 6" in rows["why"]
        assert rows["op"] == "permute([1, 0]): float32[4, 6] -> float32[6, 4]"
        assert rows["exact"] == "yes"

    def test_a_target_key_is_found_too(self, source):
        by_target = run("explain", source, "layers.1.fc.kernel", "--to", "flax").out
        assert by_target == run("explain", source, "layers.1.fc.weight", "--to", "flax").out

    @pytest.mark.parametrize("pattern", ["layers.*.fc.weight", "layers.**", "**.weight"])
    def test_a_pattern_is_folded(self, source, pattern):
        out = run("explain", source, pattern, "--to", "flax").out
        assert "source   layers.{0..2}.fc.weight  float32[4, 6]" in out
        assert "count    3" in out

    def test_the_template_is_named_as_evidence(self, undecided, tmp_path):
        like = tmp_path / "like.msgpack"
        assert run("convert", undecided, like, "--to", "flax", "--accept-guesses").code == 0
        out = run("explain", undecided, "tok_embeddings.weight", "--to", "flax", "--like", like).out
        assert "why      template: " in out
        assert "evidence 3 of 6" in out

    def test_candidates_where_it_is_not_settled(self, undecided):
        out = run("explain", undecided, "tok_embeddings.weight", "--to", "flax").out
        assert "not decided: linear or embedding" in out
        assert "--accept-guesses" in out
        neutral = run("explain", undecided, "tok_embeddings.weight", "--to", "neutral").out
        assert "options  torch.linear or torch.embedding" in neutral

    def test_reasons_where_nothing_is_moved(self, source, converted, tmp_path):
        save_file(tensors(2) | {"extra": np.ones(2, "f4")}, tmp_path / "other.safetensors")
        asked = (tmp_path / "other.safetensors", "**", "--to", "flax", "--like", converted)
        out = run("explain", *asked).out
        assert "extra\nproblem  the target has no place for it" in out
        assert "layers.2.fc.kernel\nproblem  no source tensor fills it" in out
        out = run("explain", *asked, "--allow-unexpected", "extra", "--allow-missing", "layers.2.**").out
        assert "dropped  allowed as unexpected" in out
        assert "left out no source tensor fills it, which is allowed" in out

    def test_an_unknown_key_suggests_near_ones(self, source):
        result = run("explain", source, "layers.1.fc.wieght", "--to", "flax")
        assert result.code == 2
        assert "Did you mean layers.1.fc.weight" in result.err
        assert run("explain", source, "la*yers", "--to", "flax").code == 2


class TestPlugins:
    def test_lists_what_is_installed(self):
        found = {plugin["name"]: plugin for plugin in document(run("plugins", "--json"))["plugins"]}
        assert found["torch"]["distribution"] == "ckptbridge"
        assert "framework 'torch'" in found["torch"]["provides"]
        assert "  format: safetensors" in run("plugins").out

    def test_lists_what_failed_and_why(self, monkeypatch):
        failure = PluginFailure("lost", "ckptbridge-lost", "ImportError: no module named 'lost'")
        broken = Registry(_not_loaded=(failure,))
        monkeypatch.setattr("bridge_core.plugins.default_registry", lambda: broken)
        result = run("plugins", "--json")
        assert result.code == 0
        assert document(result)["failures"] == [
            {"name": "lost", "distribution": "ckptbridge-lost", "reason": failure.reason}
        ]
        assert "lost (ckptbridge-lost): ImportError" in run("plugins").out


class TestErrors:
    @pytest.mark.parametrize(
        "options",
        [
            [],
            ["--to", "keras"],
            ["--to", "flax", "--bogus"],
            ["--to", "flax", "--max-ram", "much"],
            ["--to", "flax", "--max-shard-size", "-1"],
            ["--to", "flax", "--workers", "0"],
            ["--to", "flax", "--dtype", "int8"],
            ["--to", "flax", "--dtype", "float33"],
            ["--to", "flax", "--format", "docx"],
            ["--to", "flax", "--allow-missing", "a*b"],
            ["--to", "flax", "--model", "no_such_module:make"],
        ],
    )
    def test_usage_is_2(self, source, tmp_path, options):
        result = run("convert", source, tmp_path / "out.msgpack", *options)
        assert result.code == 2
        assert result.out == ""
        assert result.err
        assert list(tmp_path.iterdir()) == [source]

    def test_no_command_is_2(self):
        assert run().code == 2
        assert run("bogus").code == 2

    @pytest.mark.parametrize(
        ("content", "code", "name"),
        [
            (b"", 3, "CKB-302"),
            (b"garbage" * 9, 3, "CKB-30"),
            (b"<!doctype html>", 3, "CKB-301"),
            (None, 2, "CKB-202"),
        ],
    )
    @pytest.mark.parametrize("command", ["inspect", "plan", "convert", "verify", "diff", "explain"])
    def test_bad_input_is_3_and_a_missing_source_2(self, tmp_path, content, code, name, command, source):
        bad = tmp_path / "bad.safetensors"
        if content is not None:
            bad.write_bytes(content)
        others = {
            "convert": [tmp_path / "out.msgpack"],
            "verify": [source],
            "diff": [source],
            "explain": ["k"],
        }
        to = ["--to", "flax"] if command in ("plan", "convert", "explain") else []
        as_json = [] if command == "explain" else ["--json"]
        result = run(command, bad, *others.get(command, []), *to, *as_json)
        assert result.code == code
        assert result.err.startswith(f"error: {bad}: ")
        assert f"[{name}" in result.err
        assert result.err.count("\n") == 1
        if as_json:
            found = document(result)
            assert (found["code"].startswith(name), found["path"]) == (True, str(bad))
        else:
            assert result.out == ""

    def test_a_missing_folder_is_4(self, source, tmp_path):
        result = run("convert", source, tmp_path / "no" / "out.msgpack", "--to", "flax", "--json")
        assert (result.code, document(result)["code"]) == (4, "CKB-400")

    @pytest.mark.parametrize(
        ("raised", "code", "text"),
        [
            (MemoryError(), 4, "memory"),
            (OSError(5, "Input/output error", "file"), 4, "error: file: Input/output error."),
            (KeyboardInterrupt(), 130, "interrupted"),
            (
                bridge_core.UnsafeFile("it is bad.", path="p", hint="Go."),
                3,
                "error: p: it is bad. Go. [CKB-304]",
            ),
            (bridge_core.LossyCastError("line one\n  line two"), 1, "error: line one line two [CKB-107]"),
            (ZeroDivisionError("oops"), 4, "error: ZeroDivisionError: oops. "),
        ],
    )
    def test_each_class_has_its_code(self, source, monkeypatch, raised, code, text):
        def fail(*_, **__):
            raise raised

        monkeypatch.setattr("bridge_core.conversion.plan_conversion", fail)
        result = run("plan", source, "--to", "flax", "--json")
        assert (result.code, document(result)["code"][:4]) == (code, "CKB-")
        assert text in result.err.splitlines()[-1]
        assert ("Traceback" in result.err) == isinstance(raised, ZeroDivisionError)

    def test_error_text_cannot_command_the_terminal(self, tmp_path):
        result = run("inspect", tmp_path / "a\x1b[31mb\nc")
        assert result.code == 2
        assert "\x1b" not in result.err
        assert result.err.count("\n") == 1

    def test_warnings_are_one_line_each_on_stderr(self, source, tmp_path):
        with bridge_core.open_state(source) as state:
            bridge_core.save_state(state, tmp_path / "set", max_shard_size=120)
        index = tmp_path / "set" / "model.safetensors.index.json"
        text = json.loads(index.read_text())
        text["metadata"]["total_size"] += 1
        index.write_text(json.dumps(text))
        result = run("inspect", tmp_path / "set", "--json")
        assert result.code == 0
        assert document(result)["layout"] == "torch"
        (line,) = result.err.splitlines()
        assert line.startswith(f"warning: {index}: 'total_size' is ")


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["a.7", "a.8", "a.10"], [("a.{7,8,10}", 3)]),
        (["0.1", "0.2", "1.1"], [("{0..1}.{1..2}", 3)]),
        (["a.007"], [("a.007", 1)]),
        (["s-00009-of-10", "s-00010-of-10"], [("s-{00009..00010}-of-10", 2)]),
        (["a.01", "a.1"], [("a.01", 1), ("a.1", 1)]),
        (["a.0", "a.1", "a\0b.1"], [("a.{0..1}", 2), ("a\0b.1", 1)]),
        (["9" * 5000, "8" * 5000], [("9" * 5000, 1), ("8" * 5000, 1)]),
    ],
)
def test_folding_gives_names_back_as_they_are(names, folded):
    assert fold_names(names) == folded


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (7 * 10**12, "7.0 TB")],
)
def test_sizes_read_as_the_options_are_written(nbytes, text):
    assert size_text(nbytes) == text
