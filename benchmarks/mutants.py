"""The mistakes that the tests find: one place of the code is broken at a time, and the tests of that part are run.

python benchmarks/mutants.py --tree FOLDER --side before|after [--only ID ...] [--narrow] [--marks EXPRESSION] [--quick]
    [--json FILE]

A mutant is one change to the code of methods, search, storage or analysis. The tree is copied, never edited, and every
run imports `atoll` from the copy, also on MPI ranks. Each mutant first meets a few tests: before, those named here that
should find it; after, the test file that mirrors the changed one. The survivors of a part are then put in together and
meet all tests of the part's default tier; where a test fails, each of them meets that test alone. A run that takes too
long counts as caught, and the table says so. Without a mutant the tests must pass.

--json keeps each result at once, next to those of the other side; another call continues there. The table is written
beside it. Times are wall-clock seconds of the run that found the mutant.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison import to_json

# Where the source of each part is, in the tree before and after.
SOURCES = {
    "methods": ("methods", "communication"),
    "search": ("platform", "searchspaces"),
    "storage": ("storage", "platform"),
    "analysis": ("analysis",),
}
# All tests of a part; of the folders and files named, those that the tree has.
WHOLE = {
    "methods": (
        "tests/methods",
        "tests/communication",
        "tests/searchspaces",
        "tests/platform/test_trial.py",
        "tests/platform/test_train.py",
        "tests/platform/trial",
    ),
    "search": (
        "tests/searchspaces",
        "tests/platform/search",
        "tests/platform/study",
        "tests/platform/launch",
        "tests/platform/ranks",
        *(
            f"tests/platform/test_{name}.py"
            for name in (
                "population",
                "pruning",
                "tickets",
                "busy",
                "resume",
                "migration",
                "propagators",
                "proposals",
                "warmstart",
                "objectives",
                "study",
                "recorded",
                "island",
                "engine",
                "search",
            )
        ),
    ),
    "storage": ("tests/storage",),
    "analysis": ("tests/analysis",),
}
NARROW_TIMEOUT = 420.0
# A test that fails like this may only have been slow: it must do so twice.
SLOW = re.compile("Deadline|Timeout|timed? ?out|still busy|still there", re.IGNORECASE)
WHOLE_TIMEOUT = 5400.0


@dataclass(frozen=True)
class Mutant:
    """A mistake.

    Attributes:
        id: its name.
        part: methods, search, storage or analysis.
        description: what is wrong.
        edits: text and what takes its place; exactly one of them must be found, once, in the part's source.
        tests: before, those that should find it: files and tests, or "FILE -k EXPRESSION".
        where: pattern of the file that is changed, where the text alone does not say.
        after: tests that should find it as well as those that mirror the file.
    """

    id: str
    part: str
    description: str
    edits: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]
    where: str = "*"
    after: tuple[str, ...] = ()


def _one(
    id_: str,
    part: str,
    description: str,
    old: str,
    new: str,
    *tests: str,
    where: str = "*",
    after: tuple[str, ...] = (),
    or_: tuple[tuple[str, str], ...] = (),
) -> Mutant:
    return Mutant(id_, part, description, ((old, new), *or_), tests, where, after)


METHODS = "tests/methods/test_methods.py"
LOW_RANK = "tests/methods/test_low_rank.py"
THEORY = "tests/methods/test_theory.py"


def _threads(check: str, *layouts: str) -> str:
    """A check of the methods' contracts on virtual ranks."""
    return " ".join(f"{METHODS}::test_virtual_ranks[{check}[{layout}]]" for layout in layouts or ("0",))


WRITTEN_OUT = _threads("one_rank_equals_the_written_out_updates")
SERIAL = f"{_threads('one_rank_equals_its_serial_reference')} {WRITTEN_OUT}"
TREE = (
    _threads("leaves_of_the_tree_agree_at_rate_0", "0,0,1,1")
    + " "
    + _threads("the_tree_takes_the_steps_of_algorithm_6", "0,0", "0,0,1,1")
)

MUTANTS = (
    # Methods: the parameter server's family.
    _one(
        "easgd-force-sign",
        "methods",
        "the elastic force pushes replicas away from the center",
        "x.sub_(torch.sub(seen, center, out=seen), alpha=alpha)",
        "x.add_(torch.sub(seen, center, out=seen), alpha=alpha)",
        WRITTEN_OUT,
        after=(
            "tests/methods/parameter_server/test_easgd.py",
            "tests/methods/parameter_server/test_eamsgd.py",
        ),
    ),
    _one(
        "easgd-beta-without-p",
        "methods",
        "each of p ranks moves the asynchronous center by beta, not beta/p",
        "        self._move(x, self._hyperparameters.beta / self._size)",
        "        self._move(x, self._hyperparameters.beta)",
        f"{THEORY} -k round_robin_easgd",
        after=(
            "tests/methods/parameter_server/test_easgd.py",
            "tests/methods/parameter_server/test_eamsgd.py",
        ),
    ),
    _one(
        "easgd-alpha-without-p",
        "methods",
        "alpha is beta, not beta/p, by default",
        "hyperparameters.beta / self._size if hyperparameters.alpha is None",
        "hyperparameters.beta if hyperparameters.alpha is None",
        _threads("those_who_left_keep_their_pull_on_the_center", "0,0", "0,0,1,1"),
        after=(
            "tests/methods/parameter_server/test_easgd.py",
            "tests/methods/parameter_server/test_eamsgd.py",
        ),
    ),
    _one(
        "easgd-overlap-early",
        "methods",
        "async_overlap asks for the next difference before it applies the last one",
        "            self._apply()\n            self._ask()",
        "            self._ask()\n            self._apply()",
        WRITTEN_OUT,
        after=(
            "tests/methods/parameter_server/test_easgd.py",
            "tests/methods/parameter_server/test_eamsgd.py",
        ),
    ),
    _one(
        "msgd-momentum-order",
        "methods",
        "Nesterov's look-ahead is taken before the velocity is damped",
        "        v.mul_(self._settings.momentum)\n        if not self._heavy_ball:\n            x.add_(v)\n",
        "        if not self._heavy_ball:\n            x.add_(v)\n        v.mul_(self._settings.momentum)\n",
        WRITTEN_OUT,
        after=("tests/methods/sequential/test_msgd.py",),
    ),
    _one(
        "average-off-by-one",
        "methods",
        "the running mean's weight is 1/(t+2), not 1/(t+1)",
        "1 / self._num_seen if self._rate is None",
        "1 / (self._num_seen + 1) if self._rate is None",
        WRITTEN_OUT,
        after=("tests/methods/sequential/test_asgd.py",),
    ),
    _one(
        "downpour-fetch-before-push",
        "methods",
        "a rank is answered with the center as it was before its push",
        "        push(self._value, update)\n        answer.copy_(self._value)\n",
        "        answer.copy_(self._value)\n        push(self._value, update)\n",
        WRITTEN_OUT,
        after=(
            "tests/methods/parameter_server/test_downpour.py",
            "tests/methods/parameter_server/test_adownpour.py",
        ),
    ),
    _one(
        "mdownpour-no-look-ahead",
        "methods",
        "MDOWNPOUR's next gradient is taken at the center, not at center + delta v",
        "torch.add(self._value, self._velocity, alpha=self._delta, out=answer)",
        "torch.add(self._value, self._velocity, alpha=0.0, out=answer)",
        WRITTEN_OUT,
    ),
    _one(
        "admm-consensus-explicit",
        "methods",
        "consensus ADMM's step is not divided by 1 + lr rho",
        ".div_(1 + rate * rho)",
        "",
        f"{THEORY} -k consensus_admm_synchronous",
        or_=((".div_(1 + pull)", ""),),
    ),
    _one(
        "tree-period-up",
        "methods",
        "the tree's fast_up scheme sends upwards with the slow period",
        'tau_up=multi_scale_up if scheme == "multi_scale" else tau_fast,',
        'tau_up=multi_scale_up if scheme == "multi_scale" else tau_slow,',
        f"{METHODS} -k the_tree_puts_every_node",
        or_=(("tau_up, tau_down = tau_fast, tau_slow", "tau_up, tau_down = tau_slow, tau_slow"),),
        after=("tests/methods/parameter_server/test_easgd_tree.py",),
    ),
    # Methods: data-parallel.
    _one(
        "mean-divided-twice",
        "methods",
        "overlapped gradients are divided by p twice",
        "scale=1.0 / self.size, overlapped=True)",
        "scale=1.0 / self.size**2, overlapped=True)",
        _threads("ddp_of_p_ranks_equals_one_rank_with_the_whole_batch", "0,0"),
        after=("tests/methods/data_parallel/test_ddp.py",),
    ),
    _one(
        "daso-mean-over-peers",
        "methods",
        "DASO averages gradients over peers of other nodes, not inside the node",
        "self._node.mean(self._flat.gradients)",
        "self._group.mean(self._flat.gradients)",
        _threads("daso_without_delay_equals_ddp", "0,0,1,1"),
    ),
    _one(
        "daso-merge-weight",
        "methods",
        "a stale sum is merged with weight 1/(S+P), not 1/(2S+P)",
        "weight = 1 / (2 * num_steps + num_nodes)",
        "weight = 1 / (num_steps + num_nodes)",
        f"{METHODS} -k merge_is_equation",
    ),
    _one(
        "daso-receive-late",
        "methods",
        "DASO merges after S+1 steps",
        "self._step - self._sent.step >= self._sent.wait",
        "self._step - self._sent.step > self._sent.wait",
        _threads("daso_merges_by_equation_3_2_after_S_steps", "0,1"),
    ),
    _one(
        "diloco-heavy-ball",
        "methods",
        "DiLoCo's outer step has the heavy ball's momentum, not Nesterov's",
        "start.sub_(change.add_(velocity, alpha=momentum), alpha=rate)",
        "start.sub_(velocity, alpha=rate)",
        f"{METHODS} -k the_outer_step_is_torchs_nesterov",
    ),
    _one(
        "powersgd-error-dropped",
        "methods",
        "what a product of factors lacks is forgotten",
        "c.gradient.add_(c.error)",
        "c.gradient.add_(c.error, alpha=0.0)",
        _threads("powersgd_loses_nothing_but_the_last_error"),
    ),
    _one(
        "powersgd-warmup-off-by-one",
        "methods",
        "one step too many has whole gradients",
        "if self._num_steps < self._hyperparameters.warmup_steps:",
        "if self._num_steps <= self._hyperparameters.warmup_steps:",
        f"{METHODS} -k powersgd_is_torchs_hook",
        or_=(("if self._num_steps < self._num_warmup_steps:", "if self._num_steps <= self._num_warmup_steps:"),),
    ),
    # Methods: low rank.
    _one(
        "oialr-basis-transposed",
        "methods",
        "a basis update rotates U by the transposed left vectors",
        '{"U": u @ left, "S": torch.diag(values)',
        '{"U": u @ left.T, "S": torch.diag(values)',
        _threads("a_basis_update_without_a_cut_leaves_the_weights"),
        or_=(('{"U": u @ svd.u, "S": torch.diag', '{"U": u @ svd.u.T, "S": torch.diag'),),
    ),
    _one(
        "ab-whole-values-in-a",
        "methods",
        "A has all of the singular values and B none, in place of their roots",
        'return {"A": u * s.sqrt(), "B": s.sqrt()[:, None] * vt}',
        'return {"A": u * s, "B": vt}',
        f"{LOW_RANK} -k the_factors_multiply",
    ),
    _one(
        "svd-cutoff-of-smallest",
        "methods",
        "singular values are kept by a share of the smallest one",
        "values >= cutoff * values[0]",
        "values >= cutoff * values[-1]",
        "tests/methods/test_shared_svd.py",
        or_=(("s >= cutoff * s[0]", "s >= cutoff * s[-1]"),),
    ),
    # Methods: layer-parallel.
    _one(
        "mac-half-penalty",
        "methods",
        "the Z-step weighs the residual of the group below with mu, not mu/2",
        'total + mu / 2 * mse_loss(z, below, reduction="sum")',
        'total + mu * mse_loss(z, below, reduction="sum")',
        _threads("one_coupled_gradient_equals_the_two_term_gradient"),
        _threads("a_z_step_and_a_w_gradient_are_a_step_of_backprop_below_the_last_group"),
        after=("tests/methods/layer_parallel/test_mac.py",),
    ),
    _one(
        "dni-unscaled-prediction",
        "methods",
        "a predicted gradient is not divided by the batch's size",
        "output.backward(predicted / size)",
        "output.backward(predicted)",
        _threads("an_oracle_equals_backprop"),
        or_=(("output.backward(predicted / len(indices))", "output.backward(predicted)"),),
    ),
    _one(
        "admm-dual-residual-dropped",
        "methods",
        "the duals never move",
        "u + (a - copied).detach()",
        "u + (a - a).detach()",
        _threads("duals_add_the_residuals_up"),
        or_=(("u + (a - a_prime).detach()", "u + (a - a).detach()"),),
    ),
    _one(
        "admm-dual-rescaled-wrongly",
        "methods",
        "where rho grows, the scaled duals grow too",
        "self._u.mul_(self._rho / rho)",
        "self._u.mul_(rho / self._rho)",
        _threads("duals_add_the_residuals_up"),
    ),
    # Methods: the thirteen mistakes that an audit of the code before found no test for.
    _one(
        "descent-ignores-schedule",
        "methods",
        "ten methods train at a constant learning rate, whatever the schedule (audit: e10)",
        "rate = self._context.optimizers.learning_rate",
        "rate = self._settings.learning_rate",
        SERIAL,
        where="*descent.py",
    ),
    _one(
        "mdownpour-ignores-schedule",
        "methods",
        "MDOWNPOUR's master ignores the learning-rate schedule (audit: e13)",
        "move(self._value, self._velocity, gradient, self._optimizers.learning_rate, self._delta)",
        "move(self._value, self._velocity, gradient, self._optimizers.settings.learning_rate, self._delta)",
        SERIAL,
    ),
    _one(
        "descent-clips-the-decay",
        "methods",
        "ten methods clip the gradient with the l2 term in it",
        """        if settings.gradient_clipping:
            nn.utils.clip_grad_norm_([flat.vector], settings.gradient_clipping)
        _add_decay(flat, settings.weight_decay)
""",
        """        _add_decay(flat, settings.weight_decay)
        if settings.gradient_clipping:
            nn.utils.clip_grad_norm_([flat.vector], settings.gradient_clipping)
""",
        SERIAL,
        where="*descent.py",
        or_=(
            (
                """            nn.utils.clip_grad_norm_([flat.vector], settings.gradient_clipping)
        flat.gradients.add_(flat.parameters, alpha=settings.weight_decay)
""",
                """            flat.gradients.add_(flat.parameters, alpha=settings.weight_decay)
            nn.utils.clip_grad_norm_([flat.vector], settings.gradient_clipping)
""",
            ),
        ),
        after=("tests/methods/sequential/test_sgd.py",),
    ),
    _one(
        "admm-consensus-constant-pull",
        "methods",
        "the pull of eq. 3.53 keeps the first learning rate, while the gradient's falls",
        "pull = self._flat.rate_factor * (rate * self._hyperparameters.rho)",
        "pull = self._flat.rate_factor * (self._optimizers.settings.learning_rate * self._hyperparameters.rho)",
        f"{THEORY} -k consensus_admm_synchronous",
        or_=(
            (
                "self._dual, self._center, rate, rho)",
                "self._dual, self._center, rate, rho * self._optimizers.settings.learning_rate / rate)",
            ),
        ),
    ),
    _one(
        "admm-consensus-ignores-schedule",
        "methods",
        "consensus ADMM ignores the learning-rate schedule (audit: e15)",
        "        rate = self._optimizers.learning_rate\n",
        "        rate = self._optimizers.settings.learning_rate\n",
        SERIAL,
    ),
    _one(
        "ab-ignores-schedule",
        "methods",
        "AB's rate climbs to the constant one (audit: a5)",
        ".set_rate(share * self.learning_rate)",
        ".set_rate(share * self.settings.learning_rate)",
        _threads("the_learning_rate_climbs_after_each_change_of_shape", "0,0"),
    ),
    _one(
        "descent-ignores-clipping",
        "methods",
        "ten methods ignore gradient_clipping (audit: e12)",
        "            nn.utils.clip_grad_norm_([flat.vector], settings.gradient_clipping)\n",
        "            pass\n",
        SERIAL,
        where="*descent.py",
    ),
    _one(
        "ghosts-too-often",
        "methods",
        "replicas of ranks that have left exchange whenever anybody does (audit: e7)",
        ".due += 1 / (self._size - len(left))",
        ".due += 1",
        _threads("those_who_left_keep_their_pull_on_the_center", "0,0", "0,0,1,1"),
        where="*elastic*",
        or_=((".due += 1 / (self._size - len(departed))", ".due += 1"),),
        after=(
            "tests/methods/parameter_server/test_easgd.py",
            "tests/methods/parameter_server/test_eamsgd.py",
        ),
    ),
    _one(
        "tree-alpha-without-one",
        "methods",
        "the tree's alpha is 0.9/d by default, not 0.9/(d+1) (audit: t3)",
        "0.9 / (min(h.degree, size) + 1)",
        "0.9 / min(h.degree, size)",
        TREE,
    ),
    _one(
        "tree-heavy-ball",
        "methods",
        "the tree's leaves have the heavy ball's momentum, not Nesterov's (audit: t4)",
        "self._descent = Descent(context, self._flat)",
        "self._descent = Descent(context, self._flat, heavy_ball=True)",
        TREE,
        where="*easgd_tree.py",
    ),
    _one(
        "tree-averages-in-gradient",
        "methods",
        "a leaf takes an arrival in while its gradient is computed (audit: t5)",
        "            node.waiting.append(value)\n",
        "            average_in(node.value, value.to(node.value.device), self._alpha)\n",
        TREE,
    ),
    _one(
        "local-sgd-warmup-counts",
        "methods",
        "warm-up steps count towards local SGD's H (audit: l1)",
        "self._num_local_steps += not warming_up",
        "self._num_local_steps += 1",
        _threads("post_local_sgd_starts_as_ddp", "0,0"),
    ),
    _one(
        "oialr-period-from-conversion",
        "methods",
        "OIALR's updates are counted from its conversion, not from step 0 (audit: o2)",
        "self._num_steps % self._period == 0",
        "(self._num_steps - self._delay) % self._period == 0",
        _threads("oialr_cuts_and_slices_the_moments", "0,0"),
        where="*oialr.py",
    ),
    _one(
        "mac-coordinates-decay",
        "methods",
        "MAC's coordinates decay with weight_decay (audit: m5)",
        "self._z_lrs[group], weight_decay=0.0, clip=False)",
        "self._z_lrs[group], clip=False)",
        _threads("a_z_step_and_a_w_gradient_are_a_step_of_backprop_below_the_last_group"),
        or_=(("fresh([z], rate, weight_decay=0.0, clip=False)", "fresh([z], rate, clip=False)"),),
        after=("tests/methods/layer_parallel/test_mac.py",),
    ),
    _one(
        "dni-locked-target-unscaled",
        "methods",
        "gradient_loss: M learns the gradient without the batch's size (audit: n1)",
        ".learn(self._num_steps, gradient * size)",
        ".learn(self._num_steps, gradient)",
        _threads("gradient_loss_trains_the_network_by_backprop"),
        _threads("pairs_are_of_one_batch"),
    ),
    # Search.
    _one(
        "population-order",
        "search",
        "the worst individuals come first",
        "return not individual.is_complete, individual.losses[0], individual.number",
        "return not individual.is_complete, -individual.losses[0], individual.number",
        "tests/platform/test_population.py",
    ),
    _one(
        "asha-rungs-add",
        "search",
        "ASHA's rungs are grace + k factor, not grace factor^k",
        "rung *= self._settings.factor",
        "rung += self._settings.factor",
        "tests/platform/test_pruning.py -k rungs_of_asha or best_share",
        or_=(
            ("rung *= settings.factor", "rung += settings.factor"),
            ("            rung *= self.factor", "            rung += self.factor"),
        ),
        after=("tests/platform/search/test_pruning.py",),
    ),
    _one(
        "asha-share-rounded-down",
        "search",
        "at a rung the trial itself does not count among those that have come",
        "(len(values) + 1) // self._settings.factor",
        "len(values) // self._settings.factor",
        "tests/platform/test_pruning.py -k rungs_of_asha or best_share",
        or_=(("(len(values) + 1) // settings.factor", "len(values) // settings.factor"),),
    ),
    _one(
        "tickets-forget-retries",
        "search",
        "a resumed search does not count its retries towards the budget",
        "max(0, num_trials - len(done) - len(retries))",
        "max(0, num_trials - len(done))",
        "tests/platform/test_resume.py",
        or_=(("max(0, num_trials - len(started))", "max(0, num_trials - len(self.counted()))"),),
    ),
    _one(
        "tickets-batch-of-one",
        "search",
        "a fast worker gets one ticket at a time",
        "int(self.BATCH_SECONDS / max(seconds, 1e-6))",
        "int(self.BATCH_SECONDS / max(seconds, 1e6))",
        "tests/platform/test_tickets.py -k within_milliseconds",
        or_=(("int(BATCH_SECONDS / max(seconds, 1e-6))", "int(BATCH_SECONDS / max(seconds, 1e6))"),),
    ),
    _one(
        "migration-ring-backwards",
        "search",
        "islands of a ring send to the previous one",
        "others = [(island + 1) % num_islands]",
        "others = [(island - 1) % num_islands]",
        "tests/platform/test_migration.py",
    ),
    _one(
        "constraint-on-inactive",
        "search",
        "a constraint refuses configurations that lack one of its parameters",
        "    if any(name not in values for name in needed):\n        return True",
        "    if any(name not in values for name in needed):\n        return False",
        "tests/searchspaces/test_space.py -k constraint",
    ),
    _one(
        "budget-off-by-one",
        "search",
        "a budget is used up one trial too late",
        "budget is not None and used >= budget",
        "budget is not None and used > budget",
        "tests/platform/test_resume.py",
        "tests/platform/test_busy.py",
        "tests/platform/test_search.py::test_one_rank",
    ),
    _one(
        "pruned-are-not-budgeted",
        "search",
        "a resumed search trains pruned trials again",
        'BUDGETED = ("complete", "pruned", "failed")',
        'BUDGETED = ("complete", "failed")',
        "tests/platform/test_resume.py",
        "tests/platform/test_pruning.py -k resumed",
        "tests/platform/test_engine.py::test_all_ranks_of_a_worker_end_a_pruned_trial_after_the_same_step",
    ),
    _one(
        "sampler-seed-without-number",
        "search",
        "the samplers' seed does not depend on the trial's number",
        'random.Random(f"{seed}/{number}/{attempt}")',
        'random.Random(f"{seed}/{attempt}")',
        "tests/platform/test_propagators.py -k repeat and random or whose_genes or mating",
        after=("tests/platform/search/test_propagators.py",),
    ),
    _one(
        "warm-start-worst-first",
        "search",
        "a warm start takes an earlier study's best trials in reverse order",
        "for trial in leaderboard.best(store, row, study.warm_start.best):",
        "for trial in reversed(leaderboard.best(store, row, study.warm_start.best)):",
        "tests/platform/test_warmstart.py -k best_of_an_earlier",
    ),
    _one(
        "crossover-sources-swapped",
        "search",
        "genes of the second parent are told as the first one's",
        "name: other.number for name in self._limits if child.mapping[name] == theirs[name] != ours[name]",
        "name: first.number for name in self._limits if child.mapping[name] == theirs[name] != ours[name]",
        "tests/platform/test_propagators.py -k whose_genes",
        after=("tests/platform/search/test_propagators.py",),
    ),
    # Storage.
    _one(
        "journal-offset-stays",
        "storage",
        "the offset of a recorded chunk is kept at its start",
        "values(offset=chunk.offset)",
        "values(offset=chunk.start)",
        "tests/storage/test_store.py -k recording_line_by_line and not postgresql",
    ),
    _one(
        "journal-torn-line",
        "storage",
        "a line is ended where it is whole, not where it is torn",
        'os.pread(self._file, 1, size - 1) != b"\\n"',
        'os.pread(self._file, 1, size - 1) == b"\\n"',
        "tests/storage/test_journal.py",
        where="*journal.py",
    ),
    _one(
        "journal-infinity",
        "storage",
        "infinities reach the journal",
        "return content if math.isfinite(content) else None",
        "return content if not math.isnan(content) else None",
        "tests/storage/test_journal.py",
    ),
    _one(
        "events-forget-attempt",
        "storage",
        "all attempts of a trial are one",
        'return event["number"], event["attempt"]',
        'return event["number"], 0',
        "tests/storage/test_store.py -k lost_and_retried and not postgresql",
        or_=(("        return self.number, self.attempt\n", "        return self.number, 0\n"),),
        where="storage/*",
        after=("tests/storage/test_store.py",),
    ),
    _one(
        "lost-overwrites-ended",
        "storage",
        "a trial that has ended becomes lost when a launcher says so",
        'running = sa.and_(Trial.id == ids[key], Trial.state == "running")',
        "running = sa.and_(Trial.id == ids[key])",
        "tests/storage/test_store.py -k (lost_and_retried or becomes_rows) and not postgresql",
        or_=(
            (
                'running = sa.and_(TrialRow.id == ids[key], TrialRow.state == "running")',
                "running = sa.and_(TrialRow.id == ids[key])",
            ),
        ),
    ),
    _one(
        "lock-any-process",
        "storage",
        "any process of the holder's number is taken for the holder",
        'started is not None and started == holder.get("started")',
        "started is not None",
        "tests/storage/test_lock.py -k process_number",
        or_=(("return started is None or started != self.started", "return started is None"),),
        after=("tests/storage/test_lock.py",),
    ),
    _one(
        "export-without-attempt",
        "storage",
        "an exported trial lacks its attempt",
        'if column.name != "study_id"}',
        'if column.name not in ("study_id", "attempt")}',
        "tests/storage/test_store.py -k exports_are_complete and not postgresql",
        where="*export.py",
        or_=(
            ('if column.name != "study_id"\n', 'if column.name not in ("study_id", "attempt")\n'),
            ('if column.name != "study_id")\n', 'if column.name not in ("study_id", "attempt"))\n'),
        ),
        after=("tests/storage/test_store.py",),
    ),
    _one(
        "filter-not-equal-drops-missing",
        "storage",
        "trials without a value do not differ from any",
        "sa.or_(column != value, column.is_(None))",
        "sa.or_(column != value)",
        "tests/storage/test_browse.py -k conditions and not postgresql",
    ),
    _one(
        "migration-not-null",
        "storage",
        "the schema's migration demands steps to the target",
        'sa.Column("steps_to_target", sa.Float(53), nullable=True)',
        'sa.Column("steps_to_target", sa.Float(53), nullable=False)',
        "tests/storage/test_store.py -k schema_is_the_models and not postgresql",
        after=("tests/storage/test_store.py",),
    ),
    _one(
        "sqlite-without-foreign-keys",
        "storage",
        "SQLite keeps what belongs to deleted studies",
        '"foreign_keys=ON"',
        '"foreign_keys=OFF"',
        "tests/storage/test_store.py -k delete_removes and not postgresql",
    ),
    # Analysis.
    _one(
        "score-eight-times",
        "analysis",
        "times up to eight times the best one count",
        "table[table > LARGEST_RATIO * best] = np.inf",
        "table[table > 2 * LARGEST_RATIO * best] = np.inf",
        "tests/analysis/test_score.py",
    ),
    _one(
        "score-base-keeps",
        "analysis",
        "a variant that takes too long leaves its base as it is",
        "table[..., base][np.isinf(table[..., variant])] = np.inf",
        "table[..., variant][np.isinf(table[..., base])] = np.inf",
        "tests/analysis/test_score.py",
    ),
    _one(
        "score-slowest-trial",
        "analysis",
        "a study's time is that of its slowest trial",
        "return min(trial.seconds for trial in trials)",
        "return max(trial.seconds for trial in trials)",
        "tests/analysis/test_score.py",
    ),
    _one(
        "median-without-infinities",
        "analysis",
        "missed targets take no part in medians",
        "lambda sample: np.median(sample, axis=-1)",
        "lambda sample: np.nanmedian(np.where(np.isinf(sample), np.nan, sample), axis=-1)",
        "tests/analysis/test_statistics.py -k median",
    ),
    _one(
        "bootstrap-without-groups",
        "analysis",
        "tunings are not resampled, only the seeds inside them",
        "groups = rng.integers(num_groups, size=(num_resamples, num_groups))",
        "groups = np.tile(np.arange(num_groups), (num_resamples, 1))",
        "tests/analysis/test_score.py -k intervals_follow",
        "tests/analysis/test_comparison.py -k one_tuning",
        after=(
            "tests/analysis/test_score.py",
            "tests/analysis/test_comparison.py",
        ),
    ),
    _one(
        "interval-one-tail",
        "analysis",
        "the 95 % interval is one of 90 %",
        "tail = (1 - LEVEL) / 2",
        "tail = 1 - LEVEL",
        "tests/analysis/test_statistics.py -k interval",
        "tests/analysis/test_score.py -k intervals_follow",
        after=("tests/analysis/test_inference.py",),
    ),
    _one(
        "pareto-crowded-first",
        "analysis",
        "inside a front the most crowded points come first",
        "np.lexsort((np.arange(len(array)), -crowding, ranks))",
        "np.lexsort((np.arange(len(array)), crowding, ranks))",
        "tests/analysis/test_pareto.py",
    ),
    _one(
        "costs-without-latency",
        "analysis",
        "a message costs no latency",
        "return self.latency + size / self.bandwidth",
        "return size / self.bandwidth",
        "tests/analysis/test_replay.py",
        after=("tests/analysis/test_simulator.py",),
    ),
    _one(
        "replay-links-never-busy",
        "analysis",
        "collectives under way at once do not take turns",
        "begin = max([self._now, *(self._free.get(link, 0.0) for link in links)])",
        "begin = max([self._now, *(0.0 for link in links)])",
        "tests/analysis/test_replay.py",
        or_=(
            (
                "begin = max([self._engine.now, *(self._free.get(link, 0.0) for link in links)])",
                "begin = max([self._engine.now, *(0.0 for link in links)])",
            ),
            (
                "begin = max([now, *(self._free.get(link, 0.0) for link in links)])",
                "begin = max([now, *(0.0 for link in links)])",
            ),
        ),
    ),
    _one(
        "projection-scalings-swapped",
        "analysis",
        "weak scaling keeps the steps, strong scaling the work of a rank",
        '(share, 1.0) if scaling == "weak" else (1.0, share)',
        '(1.0, share) if scaling == "weak" else (share, 1.0)',
        "tests/analysis/test_projection.py -k weak_scaling or strong_scaling",
    ),
)


# Where a mutant goes.


@dataclass(frozen=True)
class Place:
    """The file of a mutant in a tree, the text there and what takes its place."""

    file: str
    old: str
    new: str


def find(tree: Path, mutants: Iterable[Mutant]) -> dict[str, Place]:
    """The one place of each mutant; ends the program where there is none, or several."""
    places, wrong = {}, []
    for mutant in mutants:
        found = [
            Place(name, old, new)
            for name, text in _sources(tree, mutant)
            for old, new in mutant.edits
            for _ in range(text.count(old))
        ]
        if len(found) == 1:
            places[mutant.id] = found[0]
        else:
            wrong.append(f"{mutant.id}: {len(found)} places: {[place.file for place in found]} {mutant.edits}")
    if wrong:
        raise SystemExit("these mutants do not have one place each in this tree:\n" + "\n".join(wrong))
    return places


def _sources(tree: Path, mutant: Mutant) -> Iterator[tuple[str, str]]:
    for folder in SOURCES[mutant.part]:
        for path in sorted((tree / folder).rglob("*.py")):
            name = str(path.relative_to(tree))
            if fnmatch.fnmatch(name, mutant.where):
                yield name, path.read_text()


# The copy, and what runs tests in it.

FINDER = '''
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

FOLDERS = {folders!r}


class Finder:
    """Finds atoll's packages in the copy."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in FOLDERS:
            return None
        folder = FOLDERS[name]
        init = Path(folder or "", "__init__.py")
        if folder and init.exists():
            return spec_from_file_location(name, init, submodule_search_locations=[folder])
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [folder] if folder else []
        return spec


sys.meta_path.insert(0, Finder)
'''

# Imports what all tests import, then forks for every run: on a busy machine these imports are most of a short one. What
# a run leaves behind becomes a child of this process, and is killed.
SERVER = """
import ctypes, importlib, json, os, signal, sys, time

for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
import hypothesis, pytest

hypothesis.settings.register_profile("mutants", deadline=None)  # a busy machine is no mistake
hypothesis.settings.load_profile("mutants")
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(word) for word in file.read().split()]


def reap():
    while left := children():
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


for line in sys.stdin:
    task = json.loads(line)
    started = time.perf_counter()
    process = os.fork()
    if process == 0:
        output = os.open(task["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 3
        try:
            code = int(pytest.main(task["arguments"]))
        finally:
            sys.stdout.flush()
            os._exit(code)
    code = None
    while code is None and time.perf_counter() - started < task["timeout"]:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.05)
    seconds = time.perf_counter() - started
    reap()
    print(json.dumps({"code": code, "seconds": seconds}), flush=True)
"""
PRELOADED = (
    "numpy",
    "torch",
    "torch.nn.parallel",
    "torch.distributed",
    "scipy.stats",
    "sqlalchemy.orm",
    "alembic.command",
    "alembic.autogenerate",
    "pydantic",
    "optuna.samplers",
    "yaml",
    "typer",
    "rich",
    "hypothesis",
    "sortedcontainers",
    "moocore",
    "sklearn.datasets",
)
IGNORED = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "results")


@dataclass(frozen=True)
class Run:
    """How a call of pytest ended: its exit code, None for a timeout; seconds; the tests that failed, and why."""

    code: int | None
    seconds: float
    failed: dict[str, str]

    def found(self, tests: Sequence[str]) -> dict[str, str]:
        """What is kept of a run of `tests` that a mutant did not pass."""
        by, why = next(iter(self.failed.items()), (tests[0], ""))
        return {"result": "timeout" if self.code is None else "caught", "by": by, "why": why}


class Copy:
    """A copy of a tree, whose files are changed and whose tests are run.

    Args:
        tree: what to copy.
        folder: where to.
    """

    def __init__(self, tree: Path, folder: Path) -> None:
        self.root = folder / "tree"
        self._folder = folder
        shutil.copytree(tree, self.root, symlinks=True, ignore=IGNORED)
        python = self._make_environment()
        data = Path(os.environ.get("ATOLL_TEST_DATA", tree.parent / "shared" / "data"))
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment |= {"ATOLL_TEST_DATA": str(data), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "300"}
        self._check_imports(python, environment)
        self._server = subprocess.Popen(
            [str(python), "-c", SERVER, *PRELOADED],
            cwd=self.root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _make_environment(self) -> Path:
        """A virtual environment with this Python's packages, and atoll from the copy; returns its Python."""
        configuration = tomllib.loads((self.root / "pyproject.toml").read_text())
        named = configuration["tool"]["setuptools"]["package-dir"]
        folders = {"atoll": None} | {name: str(self.root / folder) for name, folder in named.items()}
        base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
        environment = self._folder / "venv"
        site = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        site.mkdir(parents=True)
        (environment / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
        (site / "copy_of_atoll.py").write_text(FINDER.format(folders=folders))
        packages = [path for path in sys.path if path.endswith("site-packages")]
        # The packages' own .pth files, which would find the tree itself, are not read this way.
        (site / "copy.pth").write_text("\n".join(["import copy_of_atoll", *packages]) + "\n")
        scripts = environment / "bin"
        scripts.mkdir()
        for path in Path(sys.executable).parent.iterdir():
            if not path.name.startswith("python") and path.name != "atoll":
                (scripts / path.name).symlink_to(path)
        for path in Path(sys.prefix, "lib").iterdir():  # MPI's libraries, which mpi4py looks for there
            if not path.name.startswith("python"):
                (environment / "lib" / path.name).symlink_to(path)
        python = scripts / "python"
        python.symlink_to(base)
        main = f"#!{python}\nfrom atoll.platform.cli import main\n\nraise SystemExit(main())\n"
        (scripts / "atoll").write_text(main)
        (scripts / "atoll").chmod(0o755)
        return python

    def _check_imports(self, python: Path, environment: Mapping[str, str]) -> None:
        program = "import atoll.storage, atoll.platform.study; print(*atoll.storage.__path__, *atoll.platform.__path__)"
        done = subprocess.run([python, "-c", program], env=environment, capture_output=True, text=True, check=True)
        print(f"atoll.storage and atoll.platform are {done.stdout.strip()}", file=sys.stderr, flush=True)
        if not all(path.startswith(str(self.root)) for path in done.stdout.split()):
            raise SystemExit("atoll is not imported from the copy")

    @contextmanager
    def changed(self, places: Iterable[Place]) -> Iterator[None]:
        """The copy with mutants in it."""
        before: dict[Path, str] = {}
        try:
            for place in places:
                path = self.root / place.file
                text = path.read_text()
                before.setdefault(path, text)
                self._write(path, text.replace(place.old, place.new))
            yield
        finally:
            for path, text in before.items():
                self._write(path, text)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        # Byte code is told from another one by size and second only.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def test(self, arguments: Sequence[str], timeout: float) -> Run:
        """Call pytest."""
        output = self._folder / "output"
        shared = ["-q", "-p", "no:cacheprovider", "--basetemp", str(self._folder / "tests")]
        task = {"arguments": [*shared, *arguments], "timeout": timeout, "output": str(output)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(task) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        text = output.read_text(errors="replace")
        failed = dict(re.findall(r"^(?:FAILED|ERROR) (\S+(?: [^-]\S*)*)(?: - (.*))?$", text, re.MULTILINE))
        is_empty = answer["code"] == 5 and not any(argument.startswith("--deselect") for argument in arguments)
        if answer["code"] in (3, 4) or is_empty:  # pytest itself failed, or there is no such test
            raise SystemExit(f"pytest {' '.join(arguments)} ended with {answer['code']}:\n{text[-4000:]}")
        return Run(answer["code"], answer["seconds"], failed)

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


# What is run, and what is kept.


def selections(mutant: Mutant, place: Place, side: str, root: Path) -> list[Call]:
    """The narrow tests of a mutant: files and tests, and an expression."""
    if side == "before":
        calls: dict[str, list[str]] = {}
        for entry in mutant.tests:
            names, _, expression = entry.partition(" -k ")
            calls.setdefault(expression, []).extend(names.split(" "))
        return [(names, expression) for expression, names in calls.items()]
    path = Path(place.file)
    folders = (f"tests/{path.parent}", f"tests/{path.parts[0]}")
    mirrors = [f"{folder}/test_{name}.py" for folder in folders for name in (path.stem, path.parent.name)]
    names = _there(root, dict.fromkeys((*mirrors, *mutant.after)))
    near = [name for name in WHOLE[mutant.part] if name.startswith(f"{folders[1]}/") or name == folders[1]]
    ancestors = [f"tests/{folder}" for folder in path.parents[:-2]]  # the nearest folder of tests that there is
    return [(names or _there(root, ancestors)[:1] or _there(root, near), "")]


def _there(root: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if (root / name).exists()]


Call = tuple[Sequence[str], str]


def _joined(calls: Iterable[Call]) -> dict[str, list[Call]]:
    """Calls that can be one, as each takes seconds to begin: those without an expression, and those of one file."""
    groups: dict[str, list[Call]] = {}
    for call in calls:
        groups.setdefault(" ".join(call[0]) if call[1] else "", []).append(call)
    return groups


def _union(calls: Sequence[Call]) -> list[str]:
    names = dict.fromkeys(name for names, _ in calls for name in names)
    return _arguments(
        list(names), " or ".join(dict.fromkeys(f"({expression})" for _, expression in calls if expression))
    )


def _text(call: Call) -> str:
    return " ".join(_arguments(*call))


def _arguments(names: Sequence[str], expression: str) -> list[str]:
    return [*names, *(["-k", expression] if expression else [])]


class Results:
    """What is known of one side, kept in a file that holds both.

    Args:
        file: where; None to keep nothing.
        side: before or after.
        commit: of the tree.
    """

    def __init__(self, file: Path | None, side: str, commit: str) -> None:
        self._file = file
        command = "python benchmarks/mutants.py --tree FOLDER --side before|after"
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        self._content: dict[str, Any] = {"command": command, "machine": machine, "before": {}, "after": {}}
        if file is not None and file.exists():
            self._content |= json.loads(file.read_text())
        names = {mutant.id for mutant in MUTANTS} | {"commit", "passed", "whole"}
        self.rows: dict[str, Any] = {k: v for k, v in self._content[side].items() if k in names}
        self.rows["commit"] = commit
        self._content[side] = self.rows

    @property
    def passed(self) -> list[str]:
        """The calls of pytest that pass without a mutant."""
        return self.rows.setdefault("passed", [])  # type: ignore[no-any-return]

    @property
    def whole(self) -> dict[str, str]:
        """What the survivors of a part's narrow tests have met, by part."""
        return self.rows.setdefault("whole", {})  # type: ignore[no-any-return]

    def result(self, id_: str) -> str | None:
        """Caught, timeout or survived; open where only the narrow tests are known to pass; None before that."""
        return self.rows.get(id_, {}).get("result")

    def keep(self, id_: str = "", **fields: Any) -> None:
        """Keep a mutant's result at once, and say it on standard error."""
        if id_:
            self.rows[id_] = fields
            print(id_, fields, file=sys.stderr, flush=True)
        if self._file is not None:
            self._file.write_text(to_json(self._content))
            self._file.with_suffix(".md").write_text(self.page())

    def page(self) -> str:
        """The table of both sides, as Markdown."""
        return page(self._content)


def run_narrow(copy: Copy, mutants: Sequence[Mutant], places: Mapping[str, Place], side: str, results: Results) -> None:
    """Each mutant against the tests that should find it, which must pass without it."""
    calls = {m.id: selections(m, places[m.id], side, copy.root) for m in mutants}
    new = [call for m in mutants for call in calls[m.id] if _text(call) not in results.passed]
    for some in _joined(new).values():
        run = copy.test(_union(some), WHOLE_TIMEOUT)
        if run.code != 0:
            raise SystemExit(f"without a mutant, {' '.join(_union(some))} does not pass: {run}")
        results.passed.extend(dict.fromkeys(map(_text, some)))
        results.keep()
    for mutant in mutants:
        row = {"part": mutant.part, "file": places[mutant.id].file, "seconds": 0.0, "result": "open"}
        with copy.changed([places[mutant.id]]):
            for names, expression in calls[mutant.id]:
                run = _twice_if_slow(copy, _arguments(names, expression))
                row["seconds"] = round(row["seconds"] + run.seconds, 1)
                if run.code != 0:
                    row |= run.found(names)
                    break
        results.keep(mutant.id, **row)


def _twice_if_slow(copy: Copy, arguments: Sequence[str]) -> Run:
    """Test until something fails; where that may be for slowness only, it must fail again, or the rest must."""
    slow: list[str] = []
    while True:
        run = copy.test(["-x", *arguments, *slow], NARROW_TIMEOUT)
        if run.code == 5:
            return Run(0, run.seconds, {})
        hasty = [test for test, why in run.failed.items() if SLOW.search(why)]
        if not hasty or copy.test(["-x", *hasty], NARROW_TIMEOUT).code != 0:
            return run
        slow += [f"--deselect={test}" for test in hasty]


def run_whole(
    copy: Copy, part: str, open_: Sequence[Mutant], places: Mapping[str, Place], marks: str | None, results: Results
) -> None:
    """All mutants of a part that its narrow tests pass, against all of its tests, or those with these marks."""
    tests = [*_there(copy.root, WHOLE[part]), *(["-m", marks] if marks else [])]
    with copy.changed([places[mutant.id] for mutant in open_]):
        run = copy.test(tests, WHOLE_TIMEOUT)
    print(f"{part}, all that are open together: {run}", file=sys.stderr, flush=True)
    if run.code is None:
        raise SystemExit(f"the tests of {part} took more than {WHOLE_TIMEOUT} s with {[m.id for m in open_]}")
    results.whole[part] = f"{' '.join(tests)} ({run.seconds:.0f} s)"
    # A test that fails alone too, such as one that measures time on a busy machine, says nothing of a mutant.
    telling = [test for test in run.failed if copy.test(["-x", test], NARROW_TIMEOUT).code == 0]
    for mutant in open_:
        row = results.rows[mutant.id] | {"result": "survived"}
        with copy.changed([places[mutant.id]]):
            alone = _twice_if_slow(copy, telling) if telling else Run(0, 0.0, {})
        if alone.code != 0:
            row |= alone.found(telling) | {"seconds": round(alone.seconds, 1)}
        results.keep(mutant.id, **row)


def page(content: Mapping[str, Any]) -> str:
    """The table of both sides, as Markdown."""
    sides = [side for side in ("before", "after") if len(content[side]) > 2]
    lines = [
        "# Mutants",
        "",
        f"`{content['command']}` on {content['machine']}. Each row is one mistake in the code; the tests of that part "
        "either find it or do not. Commits: "
        + ", ".join(f"{side} {content[side].get('commit', '?')[:7]}" for side in sides)
        + ".",
        "",
        "| part | " + " | ".join(sides) + " |",
        "| --- | " + " | ".join("---" for _ in sides) + " |",
    ]
    for part in (*SOURCES, "all"):
        some = [m.id for m in MUTANTS if part in ("all", m.part)]
        cells = []
        for side in sides:
            results = [content[side][id_]["result"] for id_ in some if id_ in content[side]]
            caught = sum(result in ("caught", "timeout") for result in results)
            left = f", {len(some) - len(results)} not run" if len(results) < len(some) else ""
            unknown = f", {results.count('open')} open" if "open" in results else ""
            cells.append(f"{caught} of {len(some)} caught{unknown}{left}")
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    lines += [
        "",
        *_survivors(content, sides),
        "| mutant | what is wrong | " + " | ".join(f"{side} | found by, s" for side in sides) + " |",
        "| --- | --- | " + " | ".join("--- | ---" for _ in sides) + " |",
    ]
    for mutant in MUTANTS:
        cells = [_cell(content[side].get(mutant.id)) for side in sides]
        lines.append(f"| {mutant.id} | {mutant.description} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _survivors(content: Mapping[str, Any], sides: Sequence[str]) -> Iterator[str]:
    for side in sides:
        for part, tests in content[side].get("whole", {}).items():
            yield f"- {side}, {part}: the mutants that the narrow tests did not find met `{tests}`."
    yield ""


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not run |"
    test = str(row.get("by", "")).removeprefix("tests/").replace("|", "\\|")
    found = f"`{test}`, {row['seconds']:.1f}" if test else ""
    return f"{row['result']} | {found}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, required=True, metavar="FOLDER", help="what to copy and break")
    parser.add_argument("--side", choices=("before", "after"), required=True, help="whose tests the tree has")
    parser.add_argument("--only", nargs="+", metavar="ID", help="these mutants")
    parser.add_argument("--quick", action="store_true", help="the first mutant of each part, and its narrow tests only")
    parser.add_argument("--narrow", action="store_true", help="narrow tests only; survivors stay open")
    parser.add_argument("--marks", metavar="EXPRESSION", help="of a part's tests those with these marks only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep results here, and the table beside it")
    options = parser.parse_args()
    mutants = [m for m in MUTANTS if not options.only or m.id in options.only]
    if unknown := set(options.only or ()) - {m.id for m in mutants}:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}")
    if options.quick:
        mutants = list({m.part: m for m in reversed(mutants)}.values())
    tree = options.tree.resolve()
    places = find(tree, mutants)
    commit = subprocess.run(
        ["git", "-C", tree, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    results = Results(options.json, options.side, commit)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(tree, Path(folder).resolve())
        run_narrow(copy, [m for m in mutants if results.result(m.id) is None], places, options.side, results)
        for part in () if options.quick or options.narrow else SOURCES:
            open_ = [m for m in mutants if m.part == part and results.result(m.id) == "open"]
            if open_:
                run_whole(copy, part, open_, places, options.marks, results)
        copy.close()
    print(results.page())


if __name__ == "__main__":
    main()
