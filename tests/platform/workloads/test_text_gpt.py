"""The language model: windows of a text, the network as a chain, and its training by the methods."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from atoll.communication.threads import run_virtual_ranks
from atoll.methods.common.flat import FlatModel
from atoll.methods.layer_parallel.grouping import split_layers
from atoll.methods.low_rank.factored import eligible_layers
from atoll.methods.method import NotApplicable
from atoll.platform.study import registry
from atoll.platform.study.configuration import Configuration
from atoll.platform.study.loader import Loader
from atoll.platform.trial.trial import Trial
from atoll.platform.workloads import text_gpt
from atoll.platform.workloads.text_gpt import TextGpt, TextGptHyperparameters
from atoll.platform.workloads.workload import DataMissing, LibraryMissing

TINY = {"num_layers": 2, "num_heads": 2, "hidden_size": 16, "context_length": 8}
WORDS = ["to", "be", "or", "not", "that", "is", "the", "question"]


@pytest.fixture
def text(tmp_path):
    """A folder with a generated text of 4,000 bytes."""
    draw = random.Random(0)
    words = " ".join(draw.choice(WORDS) for _ in range(2000)).encode()
    (tmp_path / "text.txt").write_bytes(words[:4000])
    return tmp_path


def tiny(**others):
    return TextGpt(TextGptHyperparameters(**TINY | others))


def test_each_byte_of_a_part_is_predicted_once_from_the_bytes_before_it(text):
    content = list((text / "text.txt").read_bytes())
    data = tiny().load(text)
    parts, borders = (data.train, data.validation, data.test), (0, 3600, 3800, 4000)
    for part, (start, end) in zip(parts, itertools.pairwise(borders), strict=True):
        items = [part[i] for i in range(len(part))]
        num = 8 * ((end - start - 1) // 8)
        assert torch.cat([inputs for inputs, _ in items]).tolist() == content[start : start + num]
        assert torch.cat([targets for _, targets in items]).tolist() == content[start + 1 : start + num + 1]
        with pytest.raises(IndexError):
            part[len(part)]


def test_a_large_file_holds_out_no_more_than_is_evaluated_in_time():
    assert [len(part) for part in text_gpt.parts(1_115_394)] == [1_003_856, 55_769, 55_769]
    assert [len(part) for part in text_gpt.parts(10**9)] == [10**9 - 2**20, 2**19, 2**19]


def test_bytes_are_mapped_and_not_written(text):
    before = (text / "text.txt").read_bytes()
    mapped = text_gpt.map_bytes(text / "text.txt")
    inputs, _ = tiny().load(text).train[0]
    inputs.zero_()
    assert mapped[:8].tolist() == list(before[:8])
    assert (text / "text.txt").read_bytes() == before


def test_the_text_is_found_or_it_is_told_how_to_get_one(text, tmp_path, monkeypatch):
    workload = tiny()
    workload.check_data(text)
    assert workload.data_files(text) == [text / "text.txt"]
    (text / "other.txt").write_text("not this one")
    assert workload.data_files(text) == [text / "text.txt"]
    (text / "text.txt").rename(text / "novel.txt")
    with pytest.raises(
        DataMissing, match=r"must have one \.txt file, or one that is called text\.txt; it has 2: novel"
    ):
        workload.check_data(text)
    (text / "other.txt").unlink()
    monkeypatch.setenv("ATOLL_DATA", str(text))
    assert workload.data_files(None) == [text / "novel.txt"]
    with pytest.raises(DataMissing, match=r"text\.txt was not found; looked in .*nowhere.*Any plain text will do"):
        workload.check_data(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"must have at least 20500 bytes, so that the twentieth.*it has 4000"):
        tiny(context_length=1024).check_data(text)
    monkeypatch.setattr("atoll.platform.workloads.workload.find_spec", lambda _: None)
    with pytest.raises(LibraryMissing, match=r'text_gpt takes its network from transformers.*"atoll\[models\]"'):
        workload.check_data(text)


def test_hyperparameters_are_checked():
    with pytest.raises(ValueError, match=r"num_heads must divide hidden_size \(16\); got 3"):
        TextGptHyperparameters(hidden_size=16, num_heads=3)
    with pytest.raises(ValueError, match="context_length must be at least 1; got 0"):
        TextGptHyperparameters(context_length=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\); got 1.0"):
        TextGptHyperparameters(dropout=1.0)


def transformers_own(model):
    """The network as transformers runs it, with the weights of the chain `model`."""
    from transformers import OPTConfig, OPTForCausalLM  # takes two seconds of whoever collects the tests

    configuration = OPTConfig(
        vocab_size=256,
        hidden_size=16,
        num_hidden_layers=2,
        ffn_dim=64,
        num_attention_heads=2,
        max_position_embeddings=8,
        activation_function="gelu",
        tie_word_embeddings=False,
        pad_token_id=None,
    )
    network = OPTForCausalLM(configuration).eval()
    decoder = network.model.decoder
    with torch.no_grad():
        decoder.embed_tokens.weight.copy_(model.embedding.tokens.weight)
        decoder.embed_positions.weight[2:].copy_(model.embedding.positions.weight)
        decoder.layers.load_state_dict(model.blocks.state_dict())
        decoder.final_layer_norm.load_state_dict(model.norm.state_dict())
        network.lm_head.load_state_dict(model.head.state_dict())
    return network


def test_the_chain_is_transformers_network():
    torch.manual_seed(0)
    model = tiny().model().eval()
    tokens = torch.randint(256, (3, 8))
    with torch.no_grad():
        found, expected = model(tokens), transformers_own(model)(tokens).logits
    torch.testing.assert_close(found, expected)
    # torch's fused attention returns no weights.
    assert model.blocks[0].self_attn(torch.zeros(1, 8, 16))[1] is None
    # A prediction sees no later byte.
    changed = tokens.clone()
    changed[:, 5:] = 7
    with torch.no_grad():
        assert torch.equal(model(changed)[:, :5], found[:, :5])
        torch.testing.assert_close(model(tokens[:, :5]), found[:, :5])


def test_weights_start_as_gpt_2s():
    torch.manual_seed(0)
    model = TextGpt(TextGptHyperparameters(num_layers=3, hidden_size=128)).model()
    deviations = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.dim() == 2}
    for name, deviation in deviations.items():
        expected = 0.02 / math.sqrt(6) if "out_proj" in name or "fc2" in name else 0.02
        # The relative error of a deviation of n numbers is (2n)^-1/2, at most 0.0078 for 64 x 128: five of them.
        assert deviation == pytest.approx(expected, rel=0.04), name
    biases = {name: p for name, p in model.named_parameters() if p.dim() == 1}
    assert all(torch.equal(p, torch.full_like(p, name.endswith("norm.weight"))) for name, p in biases.items())


def test_the_defaults_are_as_large_as_said():
    with torch.device("meta"):
        model = TextGpt().model()
    assert sum(p.numel() for p in model.parameters()) == 470_528
    assert len({id(p) for p in model.parameters()}) == len([*model.named_parameters(remove_duplicate=False)])


def test_the_network_is_cut_between_blocks_and_factored_inside():
    model = tiny().model()
    assert [layer.name for layer in split_layers(model)] == ["embedding", "blocks.0", "blocks.1", "head"]
    assert FlatModel(model).statistics.numel() == 0
    eligible = eligible_layers(model, full_rank_first=True, full_rank_last=True)
    assert {name.rpartition(".")[2] for name in eligible} == {"k_proj", "q_proj", "v_proj", "out_proj", "fc1", "fc2"}


def test_bits_and_nats():
    workload = tiny()
    outputs, targets = torch.randn(2, 8, 256, dtype=torch.float64), torch.randint(256, (2, 8))
    probabilities = torch.softmax(outputs, dim=2).gather(2, targets[..., None])
    assert float(workload.loss(outputs, targets)) == pytest.approx(float(-probabilities.log().mean()))
    assert float(workload.measure(outputs, targets)) == pytest.approx(float(-probabilities.log2().mean()))


def reports(text, method, nodes, hyperparameters=None, **content):
    content = {"steps": 3, "report_every": "1 steps", "data": str(text), "seed": 1} | content
    hyperparameters = TINY | {"batch_size": 4, "optimizer": "adamw", "learning_rate": 1e-3} | (hyperparameters or {})
    configuration = Configuration(workload="text_gpt", method=method, hyperparameters=hyperparameters, **content)
    return run_virtual_ranks(lambda c: [*Trial(configuration, c, "cpu").train()], nodes)[0]


@pytest.mark.parametrize(
    ("method", "nodes", "hyperparameters"),
    [
        ("ddp", (0, 0), {"wire": "bfloat16"}),
        ("local_sgd", (0, 1), {"H": 2}),
        ("diloco", (0, 1), {"H": 2}),
        ("daso", (0, 0, 1, 1), {"B": 2, "S": 1, "warmup_epochs": 0, "cooldown_epochs": 0}),
        ("easgd", (0, 0), {"tau": 2, "optimizer": "sgd", "momentum": 0.0}),
        ("oialr", (0, 0), {"delay": 0.34, "update_period": 0.34}),
        ("ab", (0, 0), {"warmup": 0.34, "group_steps": 0.34, "group_size": 1}),
        ("dni", (0, 0), {"grouping": "2,2"}),
        ("dni", (0, 0), {"mode": "gradient_loss", "conditioned": True}),
    ],
)
def test_it_trains(text, method, nodes, hyperparameters):
    curve = reports(text, method, nodes, hyperparameters)
    assert [report.step for report in curve] == [1, 2, 3]
    # A uniform prediction has 8 bits per byte, and weights that are small at the start make one.
    assert all(0 < report.train_loss < 6 for report in curve)
    assert curve[-1].metric < 8.1
    assert curve[-1].metric == pytest.approx(curve[-1].validation_loss / math.log(2))


@pytest.mark.parametrize("method", ["mac", "admm_dual"])
def test_it_trains_where_an_epoch_is_passed_over_in_its_own_order(text, method):
    own = {"w_iterations": 1, "w_iterations_last": 1, "grouping": "2,2"} if method == "mac" else {}
    (report,) = reports(text, method, (0, 0), own, report_every=None)
    assert report.step == 3
    assert report.metric < 8.1


@pytest.mark.parametrize(
    ("method", "hyperparameters", "message"),
    [
        ("dni", {"mode": "fully_decoupled"}, "fully_decoupled predicts the second group's input.*got torch.int64"),
        ("dni", {"precision": "bfloat16"}, "precision must be float32 and accumulate 1; got bfloat16"),
        ("mac", {"accumulate": 2}, "precision must be float32 and accumulate 1; got float32 and 2"),
        ("mac", {"num_groups": 5}, r"the network has 4 layers \(embedding, blocks\.0, blocks\.1, head\), so at most 4"),
        ("easgd", {}, "easgd is defined by SGD's own update"),
    ],
)
def test_what_a_method_cannot_do_is_refused(text, method, hyperparameters, message):
    with pytest.raises(NotApplicable, match=message):
        reports(text, method, (0, 0), hyperparameters, report_every=None)


def test_ranks_see_what_one_rank_sees(text):
    alone = reports(text, "ddp", (0,), {"batch_size": 8})
    together = reports(text, "ddp", (0, 0))
    for one, two in zip(alone, together, strict=True):
        # Sums in another order, in single precision.
        assert two.train_loss == pytest.approx(one.train_loss, rel=1e-5)
        assert two.metric == pytest.approx(one.metric, rel=1e-5)


def test_settings_of_large_trainings_act(text):
    plain = reports(text, "ddp", (0, 0))
    settings = {"accumulate": 2, "lr_warmup": 0.5, "schedule": "cosine", "gradient_clipping": 1.0}
    curve = reports(text, "ddp", (0, 0), settings | {"precision": "bfloat16", "dropout": 0.1}, loader=Loader())
    # Three digits of bfloat16, and dropout's noise, at the first step, before the rates differ.
    assert curve[0].train_loss == pytest.approx(plain[0].train_loss, rel=0.02)
    assert curve[-1].train_loss != plain[-1].train_loss


@pytest.mark.process
def test_workers_load_the_same_windows(text):
    expected, found = reports(text, "ddp", (0,)), reports(text, "ddp", (0,), loader=Loader(workers=1, start="fork"))
    assert [report.train_loss for report in found] == [report.train_loss for report in expected]


def test_it_learns_what_words_there_are(text):
    settings = {"learning_rate": 1e-2, "batch_size": 16, "gradient_clipping": 1.0, "lr_warmup": 0.1}
    curve = reports(text, "ddp", (0,), settings, steps=60, report_every="60 steps")
    # Words are drawn independently: their entropy is 3 bits per 4.125 bytes; bytes alone have 3.5 bits.
    assert curve[-1].metric < 3


def test_tiny_shakespeare(shared_data):
    data = TextGpt().load(shared_data)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [15_685, 871, 871]
    assert np.array(data.train[0][0]).astype(np.uint8).tobytes().startswith(b"First Citizen:\n")
    assert registry.workload("text_gpt").data_files(shared_data) == [shared_data / "tiny_shakespeare.txt"]
