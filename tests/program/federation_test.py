"""Federations: owner and clients as processes of their own, and simulated in one; killed, cut and lied to."""
import hashlib
import json
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import time

from harness import PROGRAM, SANITIZED, Skip, main, make_model, offsite, questions, refuses, tensors, test, test_optimised, write_tensors

SPLIT = ("--bottom", 1, "--emulator", 2, "--top", 1)
TRAIN = ("--learning-rate", 1e-2, "--num-epochs", 1, "--batch-size", 4)
EXACT = ("--dtype", "float32", "--threads", 1)
LIMIT = 300  # seconds any run may take, under sanitizers on a busy machine


def setup(folder, clients=1):
    model = make_model(folder / "model")
    questions(folder / "test.jsonl", 6, seed=9)
    for i in range(1, clients + 1):
        questions(folder / f"client-{i}.jsonl", 4 + 4 * i, seed=i)
    return model


def start(*words):
    return subprocess.Popen([str(PROGRAM), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process, status=0):
    """What a process said on standard output and error; it ends within the limit, with that status."""
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == status, f"{process.args}\nended with {process.returncode}, not {status}:\n{out}{err}"
    return out, err


class Connection:
    """Mutual TLS on a free port of this machine, with certificates for some clients."""

    def __init__(self, folder, clients=1):
        names = [word for i in range(1, clients + 1) for word in ("--client", f"client-{i}")]
        offsite("certificates", "--out", folder / "certs", *names)
        self.folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        found = subprocess.run([str(PROGRAM), *map(str, join(folder, 1, at=self, data=folder / "none"))], capture_output=True, text=True)
        if "without gRPC" in found.stderr:
            raise Skip("needs a program with gRPC")

    def owner(self):
        return ("--listen", self.address, "--tls", self.folder / "certs/owner")

    def client(self, name):
        return ("--owner", self.address, "--tls", self.folder / "certs" / name)


class Directory:
    """Files in a folder."""

    def __init__(self, folder):
        self.folder = folder / "net"

    def owner(self):
        return ("--directory", self.folder)

    def client(self, name):
        return ("--name", name, "--directory", self.folder)


def serve(folder, *more, at=None):
    return ("serve", "--model", folder / "model", *SPLIT, "--task", "choices", "--eval-data", folder / "test.jsonl", *TRAIN, *EXACT,
            *(at or Directory(folder)).owner(), "--data-dir", folder / "owner", "--out", folder / "owner-model", *more)


def join(folder, number, *more, at=None, data=None):
    name = f"client-{number}"
    return ("join", *(at or Directory(folder)).client(name), "--data-dir", folder / f"of-{name}", "--task", "choices",
            "--data", data or folder / f"{name}.jsonl", *EXACT, *more)


def simulate(folder, *more):
    return ("simulate", "--model", folder / "model", *SPLIT, "--task", "choices", "--eval-data", folder / "test.jsonl", *TRAIN, *EXACT, *more)


def shares(folder, clients):
    """The clients' files, in a folder of their own."""
    (folder / "shares").mkdir(exist_ok=True)
    for i in range(1, clients + 1):
        shutil.copy(folder / f"client-{i}.jsonl", folder / "shares")
    return folder / "shares"


def journal(folder):
    return offsite("runs", folder).json["runs"][0]


@test
def equals_files(folder):
    """one round with one client is split, train and plug-in through files, bit for bit; so is its simulation"""
    model = setup(folder)
    offsite("split", "--model", model, *SPLIT, "--out", folder / "offer")
    offsite("train", "--offer", folder / "offer", "--task", "choices", "--data", folder / "client-1.jsonl", *TRAIN, *EXACT,
            "--out", folder / "update")
    offsite("plug-in", "--model", model, "--update", folder / "update", "--out", folder / "plugged")
    expected = (folder / "plugged/model.safetensors").read_bytes()
    assert expected != (model / "model.safetensors").read_bytes()

    owner = start(*serve(folder))
    client = offsite(*join(folder, 1, "--expect", folder / "offer", "--out", folder / "final.safetensors"))
    out, _ = ended(owner)
    assert (folder / "owner-model/model.safetensors").read_bytes() == expected
    assert "kept" in out and client.json["rounds_trained"] == 1
    # What the client ends with is the owner's adapters: what it received and what it changed.
    final, update = tensors(folder / "final.safetensors"), tensors(folder / "update/update.safetensors")
    assert final.keys() == update.keys()
    assert not any(path.is_file() for path in (folder / "net").rglob("*")), "messages were left behind"

    simulated = offsite(*simulate(folder, "--data", shares(folder, 1), "--split-data", "by-file", "--out", folder / "simulated")).json
    assert (folder / "simulated/model.safetensors").read_bytes() == expected
    scores = offsite("evaluate", "--model", folder / "plugged", "--task", "choices", "--data", folder / "test.jsonl", "--threads", 1).json
    run = journal(folder / "owner")
    assert simulated["loss"] == scores["loss"] == run["loss"]
    assert simulated["accuracy"] == scores["accuracy"] == run["accuracy"] == run["rounds"][-1]["accuracy"]
    assert "accuracy %" in out and run["start_accuracy"] is not None


@test
def equals_files_encrypted(folder):
    """a round over gRPC with mutual TLS is split, train and plug-in through files, bit for bit"""
    setup(folder)
    at = Connection(folder)
    offsite(*simulate(folder, "--data", shares(folder, 1), "--split-data", "by-file", "--out", folder / "simulated"))
    owner = start(*serve(folder, at=at))
    offsite(*join(folder, 1, at=at))
    ended(owner)
    assert (folder / "owner-model/model.safetensors").read_bytes() == (folder / "simulated/model.safetensors").read_bytes()


def killed_again_and_again(folder, at, kills):
    """A run of two clients, of which one end is killed whenever something was recorded; as many rounds as kills."""
    rounds = ("--rounds", kills, "--min-clients", 2, "--aggregate", "fedadam:0.01", "--keep-optimizer", "--lr-scheduler", "cosine")
    offsite(*simulate(folder, "--data", shares(folder, 2), "--split-data", "by-file", *rounds, "--out", folder / "simulated"))
    expected = (folder / "simulated/model.safetensors").read_bytes()
    commands = {"owner": serve(folder, *rounds, "--grace", 60, at=at), "client-1": join(folder, 1, at=at), "client-2": join(folder, 2, at=at)}
    running = {name: start(*words) for name, words in commands.items()}

    def recorded():
        try:
            with sqlite3.connect(f"file:{folder}/owner/journal.sqlite?mode=ro", uri=True, timeout=10) as database:
                return database.execute("SELECT count(*) FROM record").fetchone()[0]
        except sqlite3.OperationalError:
            return 0  # it is not there yet

    done, seen, deadline = 0, 4, time.monotonic() + LIMIT
    while done < kills and running["owner"].poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        name = ("owner", "client-1", "client-2")[done % 3]
        if recorded() <= seen or running[name].poll() is not None:
            continue
        running[name].send_signal(signal.SIGKILL)
        running[name].communicate()
        running[name] = start(*commands[name])
        done, seen = done + 1, recorded() + 1
    for process in running.values():
        ended(process)
    assert done == kills, f"it was over after {done} kills"
    assert (folder / "owner-model/model.safetensors").read_bytes() == expected
    run = journal(folder / "owner")
    assert run["state"] == "finished" and [r["updates"] for r in run["rounds"]] == [2] * kills, run


@test
def killed_encrypted(folder):
    """two clients and an owner over mutual TLS, killed ten times in rounds: the result is the simulation's, bit for bit"""
    setup(folder, 2)
    killed_again_and_again(folder, Connection(folder, 2), 3 if SANITIZED else 10)


@test
def killed(folder):
    """the same by files in a folder, killed three times"""
    setup(folder, 2)
    killed_again_and_again(folder, Directory(folder), 3)


@test
def killed_within_a_round(folder):
    """a client killed while it trains goes on from its newest checkpoint in that round: the result is the simulation's, bit for bit"""
    setup(folder)
    long = ("--max-steps", 60 if SANITIZED else 300)
    offsite(*simulate(folder, "--data", shares(folder, 1), "--split-data", "by-file", *long, "--out", folder / "simulated"))
    owner = start(*serve(folder, *long))
    checkpoints = folder / "of-client-1/checkpoints"
    client, deadline = start(*join(folder, 1, "--save-steps", 2)), time.monotonic() + LIMIT
    while not list(checkpoints.glob("step-*")) and client.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    client.kill()
    client.communicate()
    assert list(checkpoints.glob("step-*")) and client.returncode == -signal.SIGKILL, client.returncode
    resumed = offsite(*join(folder, 1, "--save-steps", 1000))
    assert re.search(r"^round 1: resumed at step [1-9][0-9]*$", resumed.err, re.MULTILINE), resumed.err
    ended(owner)
    assert (folder / "owner-model/model.safetensors").read_bytes() == (folder / "simulated/model.safetensors").read_bytes()
    assert not checkpoints.exists() and journal(folder / "owner")["rounds"][-1]["updates"] == 1


@test_optimised
def shown_upload(folder):
    """an upload that takes more than one message is shown, in a plain line where no terminal is"""
    make_model(folder / "model", width=256)
    questions(folder / "test.jsonl", 4, seed=9)
    questions(folder / "client-1.jsonl", 4, seed=1)
    owner = start(*serve(folder, "--max-steps", 1))
    client = offsite(*join(folder, 1))
    ended(owner)
    shown = re.findall(r"^upload 100%  (\d+)/(\d+) kB  ", client.err, re.MULTILINE)
    assert len(shown) == 1, client.err
    done, total = map(int, shown[0])
    kilobytes = 4 * 2 * (12 * 256 * 256 + 13 * 256) // 1000  # of the first and the last block; a file's header comes to it
    assert kilobytes <= done == total <= kilobytes + 10, shown


@test
def strangers(folder):
    """who has no certificate of the owner's authority, or a name that is not on the list, hears so in one sentence"""
    setup(folder, 2)
    at = Connection(folder, 2)
    owner = start(*serve(folder, "--clients", "client-1", at=at))
    offsite("certificates", "--out", folder / "other/certs", "--client", "client-1")
    at.folder = folder / "other"
    wrong = join(folder, 1, at=at)
    at.folder = folder
    refuses(*wrong, "--patience", 60, status=1, says=r"(authority|certificate)")
    refuses(*join(folder, 2, at=at), status=1, says="client-2")
    offsite(*join(folder, 1, at=at))
    ended(owner)
    refuses(*join(folder, 1, "--name", "client-9", at=at), status=2, says="--name is client-9, but the certificate in .* is client-1's")
    refuses("join", "--owner", "192.0.2.1:7811", "--insecure", "--name", "x", "--data-dir", folder / "x", "--task", "choices",
            "--data", folder / "client-1.jsonl", status=2, says="without TLS only a loopback address can be used")


@test
def resumed_simulation(folder):
    """a simulation that is killed goes on where it was; seeds repeat it, another seed does not"""
    setup(folder, 3)
    words = simulate(folder, "--data", shares(folder, 3), "--split-data", "by-file", "--rounds", 3, "--fraction", 0.5)
    offsite(*words, "--out", folder / "a", "--log", folder / "rounds.jsonl")
    expected = (folder / "a/model.safetensors").read_bytes()
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2, 3] and all(line["updates"] == 2 for line in lines[1:])
    for _ in range(3):
        process = start(*words, "--data-dir", folder / "journal", "--out", folder / "b")
        time.sleep(0.4)
        process.kill()
        process.communicate()
        if (folder / "b").exists():
            break
    offsite(*words, "--data-dir", folder / "journal", "--out", folder / "b", "--force")
    assert (folder / "b/model.safetensors").read_bytes() == expected
    offsite(*words, "--seed", 3, "--out", folder / "c")
    assert (folder / "c/model.safetensors").read_bytes() != expected
    refuses(*words, "--data-dir", folder / "journal", "--weight-decay", 0.5, status=2,
            says="the run in .* was begun with other settings: 'training.weight_decay' of the split is 0.5")


@test
def shared_out(folder):
    """one file is split among clients evenly, or by shares of the answers; a robust policy withstands what breaks the mean"""
    setup(folder, 3)
    data = ("--data", folder / "client-3.jsonl", "--clients", 5)
    even = offsite(*simulate(folder, *data)).json
    assert sorted(c["samples"] for c in even["clients"]) == [3, 3, 3, 3, 4]
    skewed = offsite(*simulate(folder, *data, "--split-data", "dirichlet:0.1", "--aggregate", "norm:5+multi_krum:1", "--min-clients", 5)).json
    assert sum(c["samples"] for c in skewed["clients"]) == 16 and min(c["samples"] for c in skewed["clients"]) == 1
    assert skewed["rounds"][0]["updates"] == 5


@test_optimised
def memory_of_simulation(folder):
    """thirty simulated clients take the memory of three: only the client that trains holds its tensors"""
    make_model(folder / "model", layers=6, width=192)
    questions(folder / "test.jsonl", 4, seed=9)
    questions(folder / "train.jsonl", 60, seed=1)
    few, many = (offsite(*simulate(folder, "--data", folder / "train.jsonl", "--clients", clients, "--aggregate", "fedavg")).json
                 for clients in (3, 30))
    assert few["rounds"][0]["updates"] == 3 and many["rounds"][0]["updates"] == 30
    trained = 4 * 2 * (12 * 192 * 192 + 13 * 192)  # bytes of the first and the last block
    grown = many["peak_memory_bytes"] - few["peak_memory_bytes"]
    # AdamW keeps two numbers more for each; 27 clients that stayed in memory would take 27 times `trained` at least.
    assert grown < 3 * trained, f"{grown / trained:.1f} times the trained tensors of one client"


@test
def refused_clients(folder):
    """whoever cannot take part hears why in one sentence, and the run goes on without"""
    setup(folder, 3)
    (folder / "other.json").write_text(json.dumps({"blocks": {"depth": 7}}))
    owner = start(*serve(folder, "--clients", "client-1,client-2", "--max-samples", 9))
    refuses(*join(folder, 1, "--expect", folder / "other.json"), status=1,
            says="the owner refuses this client: 'blocks.depth' of the split is 6, but 7 was expected")
    refuses(*join(folder, 2), status=1, says=r"the client claims 12 samples, but the owner allows 9 \(max_samples\)")
    refuses(*join(folder, 3), status=1, says="the name 'client-3' is not on the owner's list of clients")
    offsite(*join(folder, 1))
    ended(owner)
    assert journal(folder / "owner")["state"] == "finished"


HELLO, WELCOME, REFUSED, STATUS, ROUND, WANT, CHUNK, UPDATE, GOODBYE, LEAVE = 0, 1, 2, 3, 5, 6, 7, 8, 10, 11


def xxh64(data):
    """XXH64 with seed 0, by which messages are held to the bytes they carry."""
    primes, mask = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5), 2**64 - 1

    def rotated(value, bits):
        return (value << bits | value >> (64 - bits)) & mask

    def step(lane, word):
        return rotated((lane + word * primes[1]) & mask, 31) * primes[0] & mask

    total, at = primes[4], len(data) // 32 * 32
    if at:
        lanes = [(primes[0] + primes[1]) & mask, primes[1], 0, -primes[0] & mask]
        for words in struct.iter_unpack("<4Q", data[:at]):
            lanes = [step(lane, word) for lane, word in zip(lanes, words)]
        total = sum(rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18))) & mask
        for lane in lanes:
            total = ((total ^ step(0, lane)) * primes[0] + primes[3]) & mask
    total = (total + len(data)) & mask
    while at + 8 <= len(data):
        total = (rotated(total ^ step(0, struct.unpack_from("<Q", data, at)[0]), 27) * primes[0] + primes[3]) & mask
        at += 8
    if at + 4 <= len(data):
        total = (rotated(total ^ struct.unpack_from("<I", data, at)[0] * primes[0] & mask, 23) * primes[1] + primes[2]) & mask
        at += 4
    for byte in data[at:]:
        total = rotated(total ^ byte * primes[4] & mask, 11) * primes[0] & mask
    total = (total ^ total >> 33) * primes[1] & mask
    total = (total ^ total >> 29) * primes[2] & mask
    return total ^ total >> 32


class Liar:
    """A client that speaks the protocol by hand, over a directory."""

    def __init__(self, folder, name):
        self.out, self.inbox, self.number = folder / f"{name}-to-owner", folder / f"owner-to-{name}", 0
        self.out.mkdir(parents=True, exist_ok=True)

    def write(self, frame):
        self.number += 1
        (self.out / "new").write_bytes(frame)
        (self.out / "new").rename(self.out / f"{time.time_ns() + self.number:020}.message")

    def send(self, kind, header, payload=b""):
        text = json.dumps(header).encode()
        head = b"OFFT" + bytes((2, kind, 0, 0)) + struct.pack("<II", len(text), len(payload)) + text
        self.write(head + payload + hashlib.sha256(head + (struct.pack("<Q", xxh64(payload)) if payload else b"")).digest())

    def receive(self, *kinds):
        """The next message of one of these numbers: number, header, payload; others are passed over."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            for path in sorted(self.inbox.glob("*.message")):
                frame = path.read_bytes()
                path.unlink()
                size, = struct.unpack("<I", frame[8:12])
                if frame[5] in kinds:
                    return frame[5], json.loads(frame[16:16 + size]), frame[16 + size:-32]
            time.sleep(0.02)
        raise AssertionError(f"no message of {kinds} came")

    def fetch(self, blob):
        self.send(WANT, {"sha256": blob["sha256"], "offset": 0, "bytes": blob["bytes"]})
        return self.receive(CHUNK)[2]

    def refusal(self, run, number, update, samples=5):
        """Offers an update, sends it if it is wanted, and returns why it is refused."""
        blob = {"sha256": hashlib.sha256(update).hexdigest(), "bytes": len(update)}
        self.send(UPDATE, {"run": run, "round": number, "update": blob, "samples": samples, "steps": 1, "loss": 0.5})
        kind, header, _ = self.receive(WANT, REFUSED)
        if kind == WANT:
            self.send(CHUNK, {"sha256": blob["sha256"], "offset": header["offset"]},
                      update[header["offset"]:header["offset"] + header["bytes"]])
            _, header, _ = self.receive(REFUSED)
        return header["reason"]


@test
def lies(folder):
    """NaN, a billion samples, a hundred times the usual norm, damaged messages: refused in one sentence, never used"""
    setup(folder)
    honest_alone = offsite(*simulate(folder, "--data", shares(folder, 1), "--split-data", "by-file", "--rounds", 4, "--out", folder / "alone"))
    owner = start(*serve(folder, "--rounds", 4, "--start-clients", 2))
    liar = Liar(folder / "net", "liar")
    liar.send(HELLO, {"protocol": 1, "version": "", "nonce": 1, "split": {}, "samples": 10**9})
    assert "the client claims 1000000000 samples, but the owner allows 1000000" in liar.receive(REFUSED)[1]["reason"]
    liar.send(HELLO, {"protocol": 9, "nonce": 2})
    assert liar.receive(REFUSED)[1]["reason"] == "the client speaks version 9 of the protocol, but the owner version 1"
    liar.send(HELLO, {"protocol": 1, "version": "", "nonce": 3, "split": {}, "samples": 5})
    run = liar.receive(WELCOME)[1]["run"]
    liar.write(b"OFFT, or so it says: " + 100 * b"?")
    liar.send(STATUS, {"run": run, "doing": 1, "round": 0})
    honest = start(*join(folder, 1))

    def changed(adapters, change):
        (folder / "adapters").write_bytes(adapters)
        content = tensors(folder / "adapters")
        floats = {name: list(struct.unpack(f"<{len(raw) // 4}f", raw)) for name, (_, _, raw) in content.items()}
        change(floats)
        write_tensors(folder / "adapters", {name: (kind, shape, struct.pack(f"<{len(floats[name])}f", *floats[name]))
                                            for name, (kind, shape, _) in content.items()})
        return (folder / "adapters").read_bytes()

    def nan(floats):
        floats[min(floats)][0] = float("nan")

    def huge(floats):
        floats.update({name: [100.0] * len(values) for name, values in floats.items()})

    wrong = (("holds a number that is not finite", lambda u: changed(u, nan), 5),
             ("the update claims 1000000000 samples, but the owner allows 1 to 1000000", lambda u: u, 10**9),
             (r"times the usual .*\(max_norm_ratio\)", lambda u: changed(u, huge), 5),
             ("the update has .* bytes, but the trained tensors take at most", lambda u: 100 * u, 5))
    for number, (says, lie, samples) in enumerate(wrong, 1):
        _, header, _ = liar.receive(ROUND)
        assert header["round"] == number, header
        update = lie(liar.fetch(header["global"]))
        if number == 3:  # what is usual must be known before
            while journal(folder / "owner")["rounds"][-1]["updates"] == 0:
                time.sleep(0.05)
        reason = liar.refusal(run, number, update, samples)
        assert re.search(says, reason), (says, reason)
    liar.receive(GOODBYE)
    liar.send(LEAVE, {"run": run, "reason": "it was found out"})
    ended(honest)
    _, err = ended(owner)
    assert "a message from 'liar' is refused" in err, err
    found = journal(folder / "owner")
    assert [(r["updates"], r["refused"]) for r in found["rounds"]] == [(1, 1)] * 4
    assert (folder / "owner-model/model.safetensors").read_bytes() == (folder / "alone/model.safetensors").read_bytes()
    assert found["loss"] == honest_alone.json["loss"]


@test
def mistakes(folder):
    """settings that do not fit give one sentence before anything is trained"""
    setup(folder)
    data = ("--data", folder / "client-1.jsonl")

    def wrong(says, *more, clients=2):
        refuses(*simulate(folder, *data, "--clients", clients), *more, status=2, says=says)

    wrong("there is no aggregation 'mean'; there are fedavg", "--aggregate", "mean")
    wrong("share is 0.7, but it must be in", "--aggregate", "trimmed_mean:0.7")
    wrong("--aggregate krum needs 5 updates a round, but --min-clients is 1", "--aggregate", "krum")
    wrong("--split-data is odd, but it must be iid, by-file, or dirichlet", "--split-data", "odd")
    wrong("alpha is -1, but it must be above 0", "--split-data", "dirichlet:-1")
    wrong("8 samples cannot be split among 9 clients", clients=9)
    wrong("--split-data is by-file, but --data, .*, is no folder", "--split-data", "by-file")
    wrong("fraction is 2, but it must be above 0", "--fraction", 2)
    wrong("rounds is 0, but it must be positive", "--rounds", 0)
    wrong("into which bottlenecks cannot be merged", "--peft", "bottleneck")
    wrong("--deadline is -1 seconds", "--deadline", -1)
    refuses("simulate", "--model", folder / "model", "--task", "choices", *data, status=2, says="--eval-data is required")
    refuses("runs", folder / "model", status=2, says="is no journal of a run, and no folder that holds one")
    refuses(*serve(folder, "--clients", "../x"), status=2, says="'../x' cannot name a client")
    refuses(*join(folder, "/x"), status=2, says="'client-/x' cannot name")
    refuses(*join(folder, 1, "--patience", 0), status=2, says="--patience is 0 seconds")
    refuses("join", "--owner", "127.0.0.1:1", "--data-dir", folder / "x", "--task", "choices", *data, status=2, says="--owner needs --tls DIR")
    # Nobody comes, nobody answers: both ends say so, with the time.
    refuses(*serve(folder, "--patience", 1), status=1,
            says="the run ended early: round 1 did not begin: 0 of at least 1 clients were here within 1 s")
    refuses(*join(folder, 1, "--patience", 1, at=Directory(folder / "nowhere")), status=1, says="owner")
    refuses("join", "--name", "x", "--data-dir", folder / "x", "--task", "choices", *data, status=2,
            says="either --owner HOST:PORT or --directory DIR must be given")


main()
