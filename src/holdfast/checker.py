"""Checks certificates of holdfast without holdfast: this one file needs Python and scipy (with the numpy it brings).
    python verify.py DOSSIER.zip [--key HEX] | CERTIFY_FOLDER | LOG.tsv --sigma 0.5 --n 100000 --alpha 0.001
Radii are computed again from votes: Clopper & Pearson (1934), Lan & DeMets (1983), Voracek (2024), Cohen et al. (2019).
Exit status: 0 holds, 1 rejected. Take this file from a source that you trust: one in a forged dossier may be forged."""
import argparse, array, collections, decimal, functools, hashlib, json, math, pathlib, statistics, sys, zipfile
import numpy as np, numpy.random as rng, scipy.optimize
from scipy.special import bdtrc, betaincinv, gammaln, ndtri
NORMAL, sha256 = statistics.NormalDist(), lambda data: hashlib.sha256(data).hexdigest()
MADE_BY = {"Gaussian": "FixedVotes", "Adaptive": "AdaptiveVotes StoppedVotes", "AtRadius": "RadiusVotes DesignVotes",
           "Betting": "BettingVotes", "Margin": "MarginEvidence", "LInfBox": "BoxEvidence", "Split": "SplitEvidence"}
close, solve = functools.partial(math.isclose, rel_tol=1e-9, abs_tol=1e-9), scipy.optimize.brentq
def require(holds, *words):
    if not holds:
        raise ValueError(" ".join(map(str, words)))
@functools.cache
def clopper_pearson(k, n, level, w=1.0):  # the share at which P(k or more of n votes) is level; k itself has weight w
    w = max(w, 2 * level) if k == n else w
    return solve(lambda p: w * bdtrc(k - 1, n, p) + (1 - w) * bdtrc(k, n, p) - level, 0, 1, xtol=1e-16) if k else 0.0
def betting(counts, looks, level, best=1e-99):  # the largest share against which Krichevsky and Trofimov win 1 / level
    for k, n in [*zip(counts, looks, strict=True)][::-1]:
        won = math.lgamma(k + 0.5) + math.lgamma(n - k + 0.5) - math.lgamma(n + 1) + math.log(level / math.pi) - 1e-9
        lost = lambda p, k=k, n=n, won=won: k * math.log(p) + (n - k) * math.log1p(-p) - won
        best = solve(lost, best, min(k / n, 1 - 1e-16), xtol=1e-16) if k > n * best and lost(best) < 0 else best
    return best
def radius(sigma, p, q):  # Cohen et al., Theorem 1: the top class has a share of p or more, all others of q or less
    return max(0.0, sigma / 2 * (NORMAL.inv_cdf(p) - NORMAL.inv_cdf(q))) if 0 < p < 1 and 0 < q < 1 else 0.0
@functools.cache
def walk(p0, looks, alpha, certify_at=(), give_up_at=()):  # P(a share of p0 is certified), and the counts that certify
    votes, first, spent, counts = np.ones(1), 0, 0.0, list(certify_at) or [0] * len(looks)
    for look, n in enumerate(np.diff([0, *looks]).tolist()):
        k = np.arange(n + 1)[max(0, int(n * p0 - (by := 10 * (n * p0 * (1 - p0)) ** 0.5 + 40))) : int(n * p0 + by) + 1]
        step = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + k * math.log(p0) + (n - k) * math.log1p(-p0)
        votes, first = np.convolve(votes, np.exp(step)), first + int(k[0])
        if not certify_at:  # Lan & DeMets: half of alpha is spent evenly over the looks, the rest at the last
            room = (alpha if look + 1 == len(looks) else alpha / 2 * (look + 1) / (len(looks) - 1)) - spent
            counts[look] = first + int(np.searchsorted(-np.cumsum(votes[::-1])[::-1], -room))
        low, high = np.maximum(np.subtract((give_up_at[look] + 1 if give_up_at else 0, counts[look]), first), 0)
        spent, votes, first = spent + float(votes[high:].sum()), np.append(votes[low:high], 0.0), first + low
    return spent, counts
@functools.cache
def boundaries(sigma, delta, alpha, looks, radii):  # counts (look, radius) for alphas smaller and larger by a millionth
    cap = radius(sigma, p := clopper_pearson(looks[-1], looks[-1], alpha) - delta, 1 - p) * (1 - 1e-12)
    radii = radii or (*np.arange(0, cap, 0.005 * sigma).tolist(), cap)
    tables = [[walk(NORMAL.cdf(r / sigma) + delta, looks, alpha * by)[1] for r in radii] for by in (1 - 1e-6, 1 + 1e-6)]
    return radii, [np.maximum.accumulate(table).T for table in tables]
def from_looks(e, looks):  # two radii between which the one lies that is certified at the looks; None below the first
    if "tests" not in e:
        radii, tables = boundaries(e["sigma"], e["delta"], e["alpha"], tuple(looks), tuple(e.get("r", ())))
        most = [max(int((row <= k).sum()) for row, k in zip(table, e["counts"], strict=False)) for table in tables]
        return [radii[count - 1] if count else None for count in most]
    votes, passed = dict(zip(looks, e["counts"], strict=True)), []
    for r, test in zip(e["r"], e["tests"], strict=False):  # every stored test must keep alpha
        plan = [tuple(test[name]) for name in ("looks", "certify_at", "give_up_at")]
        error = walk(NORMAL.cdf(r / e["sigma"]) + e["delta"], plan[0], 1.0, *plan[1:])[0] + test["later"]
        require(0 <= test["later"] <= error <= e["alpha"] * (1 + 1e-6), "the test of", r, "errs with chance", error)
        walked = [(votes.get(n, -1) >= up) - (votes.get(n, -1) <= down) for n, up, down in zip(*plan, strict=True)]
        passed.append(next(filter(None, walked), 0) == 1)
    return [[None, *e["r"]][[*passed, False].index(False)]] * 2
def from_votes(e, kind, votes, selection, n0, sigma, delta, two):
    counts, noise = [*votes.values(), *selection.values(), e["invalid"], n0], e["noise"]
    require(all(type(k) is int and k >= 0 for k in counts), "votes are numbers of samples, got", counts)
    require(sum(selection.values()) <= n0 and (n0 or kind == "FixedVotes"), "impossible votes for the class, of", n0)
    ratio = sigma / noise["step"] if noise.get("step") else max(255, 2.0 ** -round(math.log2(sigma / 64))) * sigma
    lost = max(1e-9, e["numbers"] * (2 * math.sqrt(128 * math.log(2)) * ratio + 3) * 2.0**-64)
    require(noise["kind"] == "Float32" or lost <= delta * (1 + 1e-9), "delta is", delta, "and", lost, "is needed")
    top = min(((-k, int(label)) for label, k in (selection if n0 else votes).items()), default=(0, 0))[1]
    n, k, stops = sum(votes.values()) + e["invalid"], votes.get(str(top), 0), kind == "StoppedVotes"
    rival, level = max([0, *(votes[c] for c in votes if int(c) != top)]), e["alpha"] / (2 if two or not n0 else 1)
    if kind == "FixedVotes":
        require(n == e["n"], n, "votes were counted, of n =", e["n"])
        p, q = clopper_pearson(k, n, level, e.get("w") or 1.0), 1 - clopper_pearson(n - rival, n, level)
    else:
        looks, first = list(e["looks"]) if "looks" in e else [e["first"]], e.get("first")
        while "looks" not in e and looks[-1] < e["n_max"]:
            looks.append(min(e["n_max"], max(looks[-1] + first, round(looks[-1] * e["growth"] / first) * first)))
        taken, new = looks[: len(e["counts"])], np.diff([0, *e["counts"]])
        other, most = np.diff([0, *(told := e.get("rivals", [0] * len(taken)))]), np.diff([0, *taken]) - new
        ends = [k < m for k, m, _ in zip(e["counts"], e.get("go_on_at", e["counts"]), taken, strict=True)]
        held = min([0, *new, *other, *(most - other)]) == 0 and sum(ends) == ends[-1:].count(True) == stops
        require(held and [n, k] == [max([0, *taken]), new.sum()], "impossible counts", e["counts"], "at", taken)
        if kind != "BettingVotes" and not stops:
            return [(None if r is None else top, r or 0.0) for r in from_looks(e, looks)]
        require(stops or told[-1] == rival, "rivals end with", told[-1], "and votes with", rival)
        p = clopper_pearson(k, n, level) if stops else betting(e["counts"], taken, level)
        q = 1 if stops else 1 - betting([n - k for k, n in zip(told, taken, strict=True)], taken, level)
    p, q = p - delta, q + delta if two else 1 - p + delta
    for name, found in (("p_lower", max(p, 0)), ("p_upper", min(q, 1)), ("samples", n0 + n)):
        require(close(e.get(name, found), found), name, "is", e.get(name), "but", found, "follows from the votes")
    return [(top if radius(sigma, p, q) else None, radius(sigma, p, q))] * 2
def claims(e, kind):  # two pairs (class, radius) between which the claim lies that follows from evidence
    if m := {"MarginEvidence": e, "BoxEvidence": e.get("margin")}.get(kind):
        proven = m["margin"] is not None and m["margin"] > m["error"] >= 0 <= m["constant"]
        r = (m["margin"] - m["error"]) / m["constant"] if proven and m["constant"] else math.inf
        return [(m["prediction"], min(max(r, e.get("radius", 0.0)), m["diameter"])) if proven else (None, 0.0)] * 2
    if kind == "SplitEvidence":
        top, r = claims(e["inner"], e["inner"]["kind"])[0]
        require(not e["gamma"] or abs(e["local_bound"]) < (r - abs(e["rounding"])) * (1 + 1e-9), "features move by", r)
        return [(top, e["gamma"]) if e["gamma"] else (None, 0.0)] * 2
    return from_votes(e, kind, e["votes"], e["selection"], e["n0"], e["sigma"], e["delta"], e.get("two_class", False))
def check_record(index, proof, facts, unseen):
    top, r, e, task = proof["prediction"], proof["radius"], proof["evidence"], facts["certification"]
    kind, foreign = e.get("kind"), ":" in (certifier := task["certifier"])["kind"]  # package:Class
    if foreign or (kind is None and "checksums" not in facts):
        return unseen.update(["radii, " + ("of another package" if foreign else "whose version kept too little")])
    w = rng.default_rng([int(rng.SeedSequence((task.get("seed", 0), index)).generate_state(1, "Q")[0]), 1]).random()
    for a, b in ((e, certifier), *([(e["inner"], certifier["inner"])] if "inner" in e else [])):
        b = {"sigma": None, "alpha": None, "two_class": False, "boundaries": "spending", **b}
        kinds = MADE_BY.get(b["kind"], "nothing").split()[-(b["boundaries"] == "optimal")]
        require(a.get("kind") == kinds, "the evidence is", a.get("kind"), "and", b["kind"], "leaves", kinds)
        for name in a.keys() & b.keys() - {"kind", "inner"}:
            it = facts.get("norm", a[name]) if (name, b[name]) == ("threat", "own") else b[name]
            require(it == a[name], name, "is", a[name], "in the evidence and", it, "in the settings")
        drawn = w if any(b.get(f"randomi{letter}ed") for letter in "sz") else None
        require(a.get("w") == drawn, "the random number w is", a.get("w"), "and", drawn, "follows from the seed")
    (a, low), (b, high) = claims(e, kind)
    require(top in (a, b) and (low <= r <= high or close(r, low)), f"class {top} and radius {r}: {b} and {high} follow")
    told, norm = (proof["confidence"], proof["norm"]), "linf" if kind == "BoxEvidence" else e.get("threat", "l2")
    require(told == (1 - e.get("inner", e).get("alpha", 0.0), norm), "confidence and norm", told, "do not follow")
    if kind in ("DesignVotes", "StoppedVotes") or "Votes" not in kind:
        unseen["designs chosen before the votes" if "Votes" in kind else "margins and bounds of the network"] += 1
def check_run(facts, records, unseen):  # yields (holds, reason), as do those below; unseen counts what is not checked
    for record in records:
        try:
            check_record(record["index"], record["certificate"], facts, unseen)
        except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
            yield False, f"example {record['index']}: {error!s} ({type(error).__name__})"
    found, task, n = [record["index"] for record in records], facts["certification"], len(records)
    asked = [task.get("start", 0) + task.get("every", 1) * i for i in range(min(facts.get("total", n), n + 5))]
    one, two = map(collections.Counter, (found, asked))
    yield found == asked, f"not in order, or doubled or not asked for: {[*one - two][:5]}, missing: {[*two - one][:5]}"
    labels = {"labels": sha256(array.array("q", [record["label"] for record in records]).tobytes())[:16]}
    yield labels.items() <= facts.get("checksums", labels).items(), "the labels are not those the run was started with"
    unseen["model, images, votes: forged consistently, they show in a signature or --replay only"] = len(records)
def check_dossier(path, key, unseen):
    with zipfile.ZipFile(path) as archive:
        names, parts = archive.namelist(), {name: archive.read(name) for name in archive.namelist()}
    facts, lines = json.loads(body := parts["dossier.json"]), parts["records.jsonl"].splitlines()
    signer, run, told, records = facts["signer"], facts["run"], facts["totals"], [json.loads(line) for line in lines]
    yield from check_run(run, records, unseen)
    proofs, settings = [record["certificate"] for record in records], run["certification"]["certifier"]
    alpha = settings.get("inner", settings).get("alpha", 1 - min(proof["confidence"] for proof in proofs))
    alpha += sum(map(abs, run.get("revises", {}).get("earlier_alphas", {}).values()))  # settings chosen after votes
    right = [p["radius"] for p, record in zip(proofs, records, strict=True) if p["prediction"] == record["label"]]
    most = (m for m in range(len(proofs)) if not alpha or bdtrc(m, len(proofs), alpha) <= 0.001)
    found = {"examples": len(proofs), "correct": len(right), "abstained": sum(p["prediction"] is None for p in proofs),
             "alpha": alpha, "wrong_at_most": next(most, len(proofs)), "sum_of_radii": round(math.fsum(right), 6),
             "certified": {r: sum(x >= float(r) for x in right) for r in told["certified"]}}
    yield told == found, f"its totals are {told}, and the records give {found}"
    sums = {name: sha256(part) for name, part in parts.items() if name not in ("dossier.json", "signature.txt")}
    odd = sorted({name for name, _ in sums.items() ^ facts["files"].items()})
    yield not odd and len(names) == len(parts), f"files changed, missing, added or doubled: {odd}"
    end = functools.reduce(lambda a, b: sha256(a.encode() + b), lines, sha256(json.dumps(run, sort_keys=True).encode()))
    yield end == facts["chain"], "settings and records are not those of the chain of hashes"
    yield key in (None, signer), f"it is signed by {signer}, expected {key}"
    unseen["signature: there is none" if signer is None else f"whose key {signer} is"] += key is None
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as Key
        text = parts.get("signature.txt", b"").decode()
        _ = (signer or text) and Key.from_public_bytes(bytes.fromhex(signer)).verify(bytes.fromhex(text), body)
    except ImportError:
        unseen["signature: install cryptography"] += signer is not None
        yield key is None, "the signature that --key asks for cannot be checked: install cryptography"
    except Exception as error:
        yield False, f"the signature is not that of {signer} on dossier.json ({type(error).__name__})"
def check_log(path, sigma, n, alpha):  # in the format of Cohen et al.: can n samples at alpha give the printed radii?
    idx, label, predict, text, correct = np.genfromtxt(path, str, None, "\t", 1, usecols=range(5), ndmin=2).T
    x, (indices, times) = text.astype(float), np.unique(idx.astype(int), return_counts=True)
    half = np.array([0.51 * 10.0 ** decimal.Decimal(radius).as_tuple().exponent for radius in text.tolist()])
    step = int([*collections.Counter(np.diff(indices).tolist()).most_common(1), (1, 0)][0][0])  # as a rule
    lost = sorted({*range(indices[0], indices[-1], step)} - {*indices.tolist()})
    yield (times == 1).all() and not lost, f"doubled: {indices[times > 1][:5]}, {len(lost)} missing, such as {lost[:5]}"
    yield ((predict == label) == (correct == "1")).all(), "the column correct contradicts predict and label"
    possible = np.maximum(sigma * ndtri(betaincinv(k := np.arange((n + 1) // 2, n + 1), n - k + 1, alpha)), 0)
    near = possible[np.clip(np.searchsorted(possible, x)[:, None] - [0, 1], 0, len(possible) - 1)]
    above, odd = ~(x - half <= possible[-1]), ~(np.abs(near - x[:, None]).min(1) <= half)
    yield not above.any(), f"{above.sum()} radii exceed the cap {possible[-1]:.4f}, up to {x[above].max(initial=0)}"
    yield not odd.any(), f"{odd.sum()} radii follow from no number of votes, such as {x[odd][:5]}"
def check_folder(path, unseen):
    lines = [line for file in path.glob("records-*.jsonl") for line in file.read_bytes().split(b"\n")[:-1]]
    records = sorted(map(json.loads, lines), key=lambda record: record["index"])
    yield from check_run(json.loads((path / "run.json").read_bytes()), records, unseen)
def tell(found, unseen):  # whether anything failed
    wrong = []
    try:
        wrong.extend(f"wrong: {reason}" for holds, reason in found if not holds)
    except Exception as error:
        wrong.append(f"wrong: the rest cannot be read: {error!r}")
    told = [f"not checked: {what} ({times:,})" for what, times in unseen.items() if times]
    sys.stdout.write("\n".join([*wrong, *told, "REJECTED" if wrong else "all that could be checked holds"]) + "\n")
    return bool(wrong)
def main():
    parser, unseen = argparse.ArgumentParser(usage=__doc__), collections.Counter()
    for name, kind in (("path", pathlib.Path), ("--key", str), ("--sigma", float), ("--n", int), ("--alpha", float)):
        parser.add_argument(name, type=kind)
    path, key, *settings = vars(parser.parse_args()).values()
    found = check_dossier(path, key, unseen) if path.suffix == ".zip" else path.is_dir() and check_folder(path, unseen)
    unsigned = [(False, "only a .zip has the signature --key asks for")] * (key is not None and path.suffix != ".zip")
    return tell(unsigned or found or check_log(path, *settings), unseen)
if __name__ == "__main__":
    sys.exit(main())
