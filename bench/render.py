"""Makes docs/benchmarks.md and docs/benchmarks.svg of what run.py measured."""

import statistics
from typing import NamedTuple

import plot
from budget_page import between, budget
from markdown_table import table
from measurements import Results, limit_flop, question_flop, question_rate, rate_of, tokens_of

TEXTS = {
    "fate": "FATE-LLM's way: Hugging Face Trainer, padded to 600, batch 1, float32",
    "mit": "MIT's way: padded to the longest, batch 4, bf16 autocast",
    "trainer-float32": "Hugging Face Trainer tuned by its flags, float32: length-grouped batches of 8, SDPA, fused AdamW",
    "trainer-bf16": "the same with bf16 autocast, frozen weights in bf16, tanh-GELU kernel",
    "strongest": "the strongest PyTorch variant: the same with logits at the scored positions only, the head's input contiguous",
    "compiled": "the same through torch.compile",
    "offsite": "offsite, bf16, batches of 16",
    "offsite-float32": "offsite, float32, batches of 16",
}
GOALS = [  # what offsite is compared with, ours, theirs, goal
    ("FATE-LLM's way", ("offsite", "tuned"), ("fate", "default"), 30),
    ("the Trainer tuned by its flags", ("offsite", "tuned"), ("trainer-bf16", "tuned"), 3.5),
    ("the strongest PyTorch variant", ("offsite", "tuned"), ("strongest", "tuned"), 2),
    ("the strongest PyTorch variant with the default allocator", ("offsite", "tuned"), ("strongest", "default"), 2),
    ("the Trainer in float32, ours in float32", ("offsite-float32", "tuned"), ("trainer-float32", "default"), 3.5),
    ("the same through torch.compile", ("offsite", "tuned"), ("compiled", "tuned"), 2),
    ("MIT's way", ("offsite", "tuned"), ("mit", "default"), None),
]
EVALUATION_GOALS = {"float32": 4.5, "bfloat16": 8}
LIMIT_GOAL, MEMORY_GOAL = 0.88, 1100  # share; MB
KINDS = {"offsite": "bfloat16", "offsite-float32": "float32"}  # which products a client computes
RECOMPUTE = {"nothing is computed again": 0, "every second block is computed again": 2, "every block is computed again": 1}


def spread(values, digits=2):
    if not values:
        return "not measured"
    middle = statistics.median(values)
    if len(values) == 1:
        return f"{middle:.{digits}f} (once)"
    return f"{min(values):.{digits}f} / {middle:.{digits}f} / {max(values):.{digits}f}"


def verdict(values, goal):
    if not values or goal is None:
        return ""
    return "met" if statistics.median(values) >= goal else "not met"


class Goal(NamedTuple):
    text: str
    ratios: list
    goal: float | None
    peer: float | None   # what it is compared with, in units a second
    limit: float | None  # what the matrix library's products alone would allow
    peak: float | None   # what the processor's instructions would allow
    unit: str = "tokens"

    def asked(self):
        """Units a second that the goal asks for."""
        return self.goal * self.peer if self.goal and self.peer else None

    def share(self):
        return self.asked() / self.limit if self.asked() and self.limit else None

    def share_of_peak(self):
        return self.asked() / self.peak if self.asked() and self.peak else None

    def beyond(self):
        """What the goal asks more than."""
        return "the processor's peak" if (self.share_of_peak() or 0) > 1 else "the limit" if (self.share() or 0) > 1 else ""

    def verdict(self):
        state = verdict(self.ratios, self.goal)
        return f"not met, beyond {self.beyond()}" if state == "not met" and self.beyond() else state


def middle(values):
    return statistics.median(values) if values else None


def goal_rows(results):
    """All that has a goal, or was measured."""
    rows = []
    limits, peaks = ({kind: middle(results.limits("step", name, "tuned", kind, of=of)) for name, kind in KINDS.items()}
                     for of in ("library", "peak"))
    for text, ours, theirs, goal in GOALS:
        if values := results.ratios(ours, theirs):
            peer = middle([rate_of(run[0]) for run in results.rounds("step", *theirs).values()])
            rows.append(Goal(text, values, goal, peer, limits[KINDS[ours[0]]], peaks[KINDS[ours[0]]]))
    for text, of, found in (("the limit of the products", "library", limits), ("the processor's peak", "peak", peaks)):
        for name, kind in KINDS.items():
            speeds = results.speeds(of, kind)
            shares = [rate_of(run[0]) * limit_flop(run[0]) * 1e-9 / speeds[r]
                      for r, run in results.rounds("products", name).items() if r in speeds]
            if shares:
                goal = LIMIT_GOAL if name == "offsite" and of == "library" else None
                rows.append(Goal(f"{text}, {kind}", shares, goal, found[kind], limits[kind], peaks[kind]))
    for kind, goal in EVALUATION_GOALS.items():
        values = results.ratios((f"offsite {kind}", ""), (f"lm-eval {kind}", ""), "evaluation",
                                lambda r: r["real_tokens"] / r["wall_s"])
        if values:
            ours, theirs = (results.rounds("evaluation", f"{side} {kind}", "").values() for side in ("offsite", "lm-eval"))
            tokens = tokens_a_question(ours)
            limit, peak = (middle(results.limits("evaluation", f"offsite {kind}", "", kind, question_flop, of))
                           for of in ("library", "peak"))
            rows.append(Goal(f"lm-evaluation-harness, {kind}", values, goal, middle([question_rate(r[0], tokens) for r in theirs]),
                             limit and limit / tokens, peak and peak / tokens, "questions"))
    return rows


def tokens_a_question(runs):
    return statistics.mean(run[0]["real_tokens"] / run[0]["questions"] for run in runs)


def figure_of(row, value):
    return "" if value is None else f"{value:,.1f} questions" if row.unit == "questions" else f"{value:,.0f}"


def ratio_table(rows):
    return table(["offsite against", "minimum / median / maximum", "goal", "", "the peer, tokens/s", "the goal asks for",
                  "of the limit", "of the processor's peak", "the limit is"],
                 [(row.text, spread(row.ratios), row.goal or "", row.verdict(), figure_of(row, row.peer), figure_of(row, row.asked()),
                   *(f"{100 * share:.0f} %" if share else "" for share in (row.share(), row.share_of_peak())),
                   f"{row.limit / row.peer:.2f} times the peer" if row.limit and row.peer not in (row.limit, row.peak) else "") for row in rows])


def steadiness(results):
    """How near the library's own products come to the best of them, and how near offsite to such products, in sentences."""
    around = [results.rounds("products", when, "") for when in ("before", "after")]
    products, steps = [], []
    for name, kind in KINDS.items():
        shares, means = [], {}  # of their best; Gflop/s of a round
        for runs in around:
            for r, run in runs.items():
                mean = run[0][f"{kind} mean"]
                shares.append(mean / run[0][kind])
                means.setdefault(r, []).append(mean)
        products += [f"{100 * middle(shares):.0f} % of that best one in {kind}"] if shares else []
        ours = [rate_of(run[0]) * limit_flop(run[0]) * 1e-9 / statistics.mean(means[r])
                for r, run in results.rounds("products", name).items() if r in means]
        steps += [f"{spread(ours)} in {kind}"] if ours else []
    found = []
    if products:
        found.append(f"All such products of two seconds, one after the other and nothing else, run at {' and '.join(products)}.")
    if steps:
        found.append(f"With their mean speed for a limit, offsite's share of it is {' and '.join(steps)}.")
    return found


def limit_words(results, rows):
    """What the products alone keep out of reach."""
    rates = {text: [f"{row.peer:,.0f} tokens/s in {row.text.split()[-1]}" for row in rows if row.text.startswith(text) and row.peer]
             for text in ("the limit of the products", "the processor's peak")}
    limits, peaks = rates.values()
    if not limits:
        return []
    lines = [f"The limit of the products, {' and '.join(limits)}, is the rate of a client that spends its time on nothing but the "
             "linear layers' usual matrix products, each at the best speed at which the matrix library computes one of the "
             "feed-forward layer's size.", *steadiness(results)]
    if peaks:
        lines.append(f"The processor's peak, {' and '.join(peaks)}, is the same at the speed of its instructions for sums of products, with "
                     "all that they read in registers (`bench/peak`): no client that computes these products is faster on it.")
    for what, share in (("the processor's peak", Goal.share_of_peak), ("the limit", Goal.share)):
        beyond = [f"{row.goal:g} times {row.text} = {figure_of(row, row.asked())}{'/s' if row.unit == 'questions' else ' tokens/s'} = "
                  f"{100 * share(row):.0f} % of it" for row in rows if row.beyond() == what]
        if beyond:
            lines.append(f"More than {what} ask: {'; '.join(beyond)}.")
    return [" ".join(lines), ""]


def words(results, rows):
    def said(row):
        return f"{statistics.median(row.ratios):.2f} of {row.text} (goal {row.goal:g})"
    lines = []
    for start, state, end in (
            ("Goals that are met, by the median: ", "met", "."), ("Not met: ", "not met", ". \"What stands between\" says where the time goes."),
            ("Not met, since they ask for more than the limit of the matrix library's products: ", "not met, beyond the limit",
             ". \"Ratios\" gives the rates."),
            ("Not met, since they ask for more than the processor can multiply and add: ", "not met, beyond the processor's peak",
             ". \"Ratios\" gives the rates.")):
        if chosen := [row for row in rows if row.verdict() == state]:
            lines.append(start + "; ".join(map(said, chosen)) + end)
    memory = [(r[0]["peak_rss_mib"] * 1.048576, r[0]["peak_anonymous_mib"] * 1.048576)
              for r in results.rounds("step", "offsite").values()]
    if memory:
        resident, anonymous = (statistics.median(x) for x in zip(*memory))
        state = "met" if resident <= MEMORY_GOAL else \
            "met by anonymous memory only" if anonymous <= MEMORY_GOAL else "not met"
        lines.append(f"The client's peak memory is {anonymous:.0f} MB anonymous and {resident:.0f} MB resident, which counts the "
                     f"pages of the mapped offer that are in memory, too (goal {MEMORY_GOAL}: {state}).")
    return [line for text in lines for line in (text, "")]


def run_rows(results):
    rows = []
    for (group, name, allocator) in results.entries:
        if group != "step":
            continue
        runs = [r[0] for r in results.rounds(group, name, allocator).values()]
        if not runs:
            rows.append([TEXTS[name], allocator, "no result", "", "", "", ""])
            continue
        def typical(value, runs=runs):
            return f"{statistics.median(map(value, runs)):.0f}"
        rows.append([TEXTS[name], allocator, spread([rate_of(r) for r in runs], 0),
                     typical(lambda r: 1e6 * (r["user_s"] + r["sys_s"]) / tokens_of(r)),
                     typical(lambda r: r["minor_faults"] / r["steps"]),
                     typical(lambda r: r["peak_anonymous_mib"] * 1.048576), typical(lambda r: r["peak_rss_mib"] * 1.048576)])
    return rows


def warm_words(results):
    """What a step asks of the system once its buffers are as large as they get."""
    record = results.one("warm", "warm", "tuned")
    return [f"Page faults come from batches that are larger than those before. {record['steps']} steps of offsite on a batch as large as "
            f"the ones before had {record['minor_faults']} of them, and took {record['sys_s']:.2f} s of the system's processor time.", ""] if record else []


def curve_points(results):
    """[(batch, [ratio a round], [our rate])]"""
    theirs = {r: {x["batch"]: rate_of(x) for x in run} for r, run in results.rounds("curve", "strongest").items()}
    points = []
    for batch in sorted({b for run in theirs.values() for b in run}):
        ours = {r: rate_of(run[0]) for r, run in results.rounds("curve", f"offsite {batch}").items()}
        both = [r for r in ours if batch in theirs.get(r, {})]
        if both:
            points.append((batch, [ours[r] / theirs[r][batch] for r in both], [ours[r] for r in both]))
    return points


def curve(results):
    points = curve_points(results)
    if not points:
        return []
    return ["## Batch budgets", "", "Tokens a second in bf16 against the strongest PyTorch variant, tuned allocators, a few steps "
            "each; 128 sequences are about 15,000 tokens. Both sides train on the same samples. The peer sorts them by length and adds the "
            "gradients of batches of 8 up where there are more, which is faster than one large padded batch.", "",
            *table(["sequences a batch", "offsite, tokens/s", "ratio: minimum / median / maximum"],
                   [(b, f"{statistics.median(rates):.0f}", spread(found)) for b, found, rates in points])]


def shapes(results):
    rows = []
    for (group, name, _) in results.entries:
        if group == "shapes" and name.startswith("offsite "):
            shape = name.split()[1]
            ours, theirs = results.rounds("shapes", name), results.rounds("shapes", f"strongest {shape}")
            if ours and theirs:
                rows.append([shape, *(f"{statistics.median(rate_of(r[0]) for r in side.values()):.0f}" for side in (ours, theirs)),
                             spread(results.ratios((name, "tuned"), (f"strongest {shape}", "tuned"), "shapes"))])
    if not rows:
        return []
    return ["## Models of 350M parameters", "", "OPT-350M's shape (norms after the sums, embeddings of 512) and Llama's with 24 blocks of "
            "1,024; random weights, bottom 2 + emulator 4 + top 2 of the 24, bf16, batches of 16; the peer's are two batches of 8.", "",
            *table(["shape", "offsite, tokens/s", "strongest PyTorch variant", "ratio: minimum / median / maximum"], rows)]


def evaluation(results):
    rows = []
    for kind, goal in EVALUATION_GOALS.items():
        ours, theirs = (results.rounds("evaluation", f"{side} {kind}", "") for side in ("offsite", "lm-eval"))
        if not ours or not theirs:
            continue
        tokens = tokens_a_question(ours.values())
        computed = statistics.mean(r[0]["rows"] / r[0]["questions"] for r in ours.values())
        ratios = results.ratios((f"offsite {kind}", ""), (f"lm-eval {kind}", ""), "evaluation",
                                lambda r: r["real_tokens"] / r["wall_s"])
        rows.append([kind, *(spread([question_rate(r[0], tokens) for r in side.values()]) for side in (ours, theirs)),
                     spread(ratios), goal, verdict(ratios, goal), f"{tokens:.0f}", f"{computed:.0f}"])
    if not rows:
        return []
    return ["## Evaluation", "", "SciQ's test questions on GPT-2-small's full shape. A question is counted as the mean one of those measured "
            "here: the harness, which is slow, scores fewer.", "",
            *table(["type", "offsite, questions/s", "lm-evaluation-harness", "ratio", "goal", "", "tokens a question, each choice "
                    "with its prompt", "rows computed"], rows)]


def files(results):
    record = results.one("files", "files")
    if record is None:
        return []
    return ["## Files", "", "A folder of GPT-2-small's shape in the page cache, split into bottom 2 + emulator 4 + top 2; one round after the "
            "other. Splitting and saving hash what they write, and wait for the disk; `cp` does not unless it says so.", "",
            *table(["what", "MB", "GB/s: minimum / median / maximum", "ms of processor time"],
                   [(t["name"], f"{1e-6 * t['bytes']:.0f}", spread(t["gb_per_s"]), f"{1e3 * statistics.median(t['cpu_s']):.0f}")
                    for t in record["things"]])]


def kernels(results):
    record = results.one("kernels", "kernels")
    if record is None:
        return []
    times = {b["name"]: b["real_time"] * {"ns": 1e-3, "us": 1, "ms": 1e3}[b["time_unit"]] for b in record["kernels"]}
    rows = []
    for name, ours in times.items():
        what, _, side = name.partition("/offsite")
        theirs = times.get(what + "/ATen" + side)
        if "/offsite" in name and ours and theirs:
            rows.append([what, side.split("/")[0].strip(), f"{ours:.0f}", f"{theirs:.0f}", f"{theirs / ours:.2f}"])
    return ["## Kernels", "", "`bench/kernels`, by Google Benchmark: ours against ATen's operator that it replaces; 1,856 rows of SciQ's "
            "lengths (16 sequences), all threads.", "",
            *table(["kernel", "type", "offsite, us", "ATen, us", "ratio"], rows)]


def recompute(results):
    rows = []
    for name in RECOMPUTE:
        runs = [r[0] for r in results.rounds("recompute", name).values()]
        if runs:
            rows.append([name, spread([rate_of(r) for r in runs], 0),
                         f"{statistics.median(r['peak_anonymous_mib'] for r in runs) * 1.048576:.0f}"])
    lines = []
    if rows:
        lines += ["## Memory against speed", "", "The option `recompute`, bf16, batches of 16.", "",
                  *table(["", "tokens/s: minimum / median / maximum", "peak anonymous MB"], rows)]
    record = results.one("cache", "cache", "tuned")
    if record is not None and record["later_epoch_s"]:
        lines += ["## Rows kept below the first trained block", "", "Adapters in the last 2 of 8 blocks only, bf16: the first epoch computes "
                  f"{record['real_tokens']:.0f} tokens in {record['first_epoch_s']:.1f} s, each later one takes "
                  f"{record['later_epoch_s']:.1f} s ({record['first_epoch_s'] / record['later_epoch_s']:.2f} times as fast).", ""]
    return lines


def missing(results):
    found = results.missing()
    if not found:
        return []
    return ["## Not measured in this run", "",
            *(f"- {group}: {name} {allocator}".rstrip() + f", round{'s' if len(rounds) > 1 else ''} "
              + ", ".join(str(r + 1) for r in sorted(rounds)) + ": " + why.replace("|", "/")
              for (group, name, allocator, why), rounds in found.items()), ""]


def own_samples(results):
    """What offsite trains on in a round of the group `step`, and in how many parts."""
    found = []
    for name, kind in KINDS.items():
        samples = middle([run[0]["samples"] for run in results.rounds("step", name).values()])
        parts = max(map(len, results.entries.get(("step", name, "tuned"), {}).values()), default=0)
        if samples:
            found.append(f"{samples:.0f} a round in {kind}" + (f" ({parts} parts, each after another peer's run, since a shared machine's speed "
                         "changes from minute to minute; the rate is that of all of them)" if parts > 1 else ""))
    return ["- offsite trains on these samples in the file's order, " + " and ".join(found) + "; each round goes on where the one before ended, "
            "after the last sample at the first"] if found else []


def document(results, made_of):
    rows = goal_rows(results)
    v, all_ = made_of["versions"], made_of
    slices = ", ".join(f"{name} one batch in {every}" for name, every in all_["slices"].items())
    lines = ["# Benchmarks", "", "Written by `bench/run.sh`, which measures offsite and its peers one after the other, "
             f"{'once' if all_['rounds'] == 1 else 'up to ' + str(all_['rounds']) + ' times in turn'}, and keeps what it measured in `benchmarks.json`.", ""]
    if all_["scale"] != "full":
        lines += [f"**A short run (`--{all_['scale']}`): fewer samples, no curve, and not to be cited.**", ""]
    lines += words(results, rows)
    lines += ["## Ratios", "", "The client's training step, GPT-2-small's shape, bottom 2 + emulator 4 + top 2, SciQ's training samples with "
              "their supports, dropout 0: how many times as fast as the peer offsite is, in real tokens; what each goal asks for, and "
              "where that lies relative to the limit of the products.", "", *ratio_table(rows), *limit_words(results, rows),
              "![Ratios and the curve over batch budgets](benchmarks.svg)", "",
              "## Runs", "", "Peak memory is of the whole process; anonymous memory is what no mapped file holds. Processor time is ms for "
              "1,000 tokens, of all threads.", "",
              *table(["client", "allocator", "tokens/s: minimum / median / maximum", "processor time", "page faults a step",
                      "peak anonymous MB", "peak resident MB"], run_rows(results)), *warm_words(results)]
    for section in (curve, shapes, evaluation, files, recompute, budget, between, kernels):
        lines += section(results)
    lines += ["## How it was measured", "",
              f"- {all_['date']}; {v['processor']}, {v['processors']} processors, ATen uses {v['capability']}; {all_['threads']} threads",
              "- " + ", ".join(f"{name} {version}" for name, version in v.items()
                               if name not in ("processor", "processors", "capability")),
              "- tuned allocator: peers with `" + " ".join(f"{k}={value}" for k, value in all_["allocator"].items()) +
              "`, offsite with `TensorArena::install()`; the default allocator was measured once where that is for information only",
              "- rates are in real tokens, without padding. Peers that pad to one length are measured on a few samples and count with "
              "the mean length of the first 512 samples, since a padded sample costs the same whatever its length",
              f"- slow peers run a slice of the 512 samples' length-grouped batches a round, and another one each round: {slices}. The slices "
              "take their batches evenly from the long to the short ones",
              *own_samples(results),
              "- the limit: the operations of the linear layers in their usual order (the last block beyond its keys and values, and "
              "the head, on scored rows only; a step of offsite's takes about 4 % fewer, see \"Fewer products\" in `design.md`), at the best speed of one product of 1472 x 768 and 768 x 3072 in the two seconds before and the two "
              "seconds after a short run of offsite of its own: a shared machine's speed changes from minute to minute", ""]
    lines += missing(results)
    lines += ["To measure again, with nothing else running on the machine:", "", "```sh", "# not run: takes up to 40 minutes",
              "bench/run.sh", "```", "", "`bench/run.sh --quick` takes five minutes, `--only evaluation,files` measures these groups anew, "
              "`--render` makes this page of `benchmarks.json`.", "", "## Not run", "",
              "`bench/gpu.sh` measures the same on a GPU with GPT2-XL's shape (48 blocks, 1,600 wide, 2-16-2), against the Trainer, "
              "FlashAttention through SDPA and torch.compile. It was not run: no GPU was at hand. What it runs was tried on the CPU with a "
              "tiny shape (`--device cpu --tiny`). offsite itself trains on the CPU alone so far, and the script says so where it is run.", ""]
    return "\n".join(lines)


def write(made_of, out):
    results = Results(made_of)
    bars = [(row.text, row.ratios, row.goal) for row in goal_rows(results) if row.peer not in (row.limit, row.peak)]
    pages = {out / "benchmarks.md": document(results, made_of).encode(),
             out / "benchmarks.svg": plot.figure(bars, [(b, r) for b, r, _ in curve_points(results)]).encode()}
    for path, text in pages.items():  # all of them are made before one is written
        path.write_bytes(text)
    return list(pages)
