#!/usr/bin/env python3
"""What tests/unit/test_tokenizer.c compares with: made by Hugging Face's tokenizers (pip install tokenizers).

    make.py               write the files beside this one: text to learn from, two tokenizers, nasty text and its ids
    make.py long FOLDER   write FOLDER/{train.txt,text.txt,gpt2.json,llama3.json,*.ids}: a vocabulary of 50k and 10 MB of
                          text, from files of this machine and made-up ones, in documents with <|endoftext|> between
                          them; prints the time that encoding takes, on one core and on all
    make.py check FILE TEXT IDS   whether a tokenizer.json gives these ids
"""
import json
import os
import random
import sys
import time

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
END = "<|endoftext|>"
SCRIPTS = [(0x61, 0x7a), (0x41, 0x5a), (0x430, 0x44f), (0x627, 0x64a), (0x4e00, 0x4fff), (0x3042, 0x3093), (0xac00, 0xae00),
           (0x905, 0x939), (0x3b1, 0x3c9), (0x5d0, 0x5ea), (0xe01, 0xe30), (0x1f600, 0x1f640), (0xc0, 0xff)]


def words(rng, n):
    """Made-up words of many scripts, some often and most seldom, with what stands between words."""
    lexicon = []
    for low, high in SCRIPTS:
        for _ in range(150):
            lexicon.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 9))))
    rng.shuffle(lexicon)
    between = [" "] * 20 + ["\n", "\r\n", "  ", "\t", ", ", ". ", "; ", "'s ", "-", "()", " {\n    ", "\u00a0", " 12", "3.14 ", "\n\n"]
    out = []
    for _ in range(n):
        out.append(lexicon[min(int(rng.paretovariate(0.6)) - 1, len(lexicon) - 1)] + rng.choice(between))
    return "".join(out)


def nasty(rng):
    parts = [
        "Hello, world! It's 2024: they're, we've, I'm, you'll, he'd; IT'S THEY'RE WE'VE I'M YOU'LL HE'D 'Tis 'sss\n",
        "\u017f'\u017f K\u212a \u0130\u0131 \ufb01 \ufb06 \u00df \u1e9e\n",
        "for (int i = 0; i < n; i++) {\n\tif (a[i] != b[i]) return -1;  // differs\n}\r\n\r\n#define X(a) \\\r\n  a##_t\n",
        "def f(x):\n    return {'a': x ** 2, \"b\": [None] * 3}\n\n\n\n\n    \n",
        "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645\u060c \u0643\u064e\u062a\u064e\u0628\u064e \u0661\u0662\u0663\u0664 \u06f5\u06f6\n",
        "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u4eca\u5929\u662f2024\u5e741\u67081\u65e5\u3002\u3053\u3093\u306b\u3061\u306f\u3001\u4e16\u754c\uff01\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8\n",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \u2764\ufe0f 1\ufe0f\u20e3\n",
        "e\u0301 \u00e9 a\u0308\u0323 Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324 \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\n",
        "nbsp\u00a0nbsp\u00a0\u00a0x\u2003y\u2028z\u2029\u0085q\u180ew\u200bv\ufeffu\u3000t\u1680s\u205fr\u202fp\x0b\x0c\x1c\x1f\x00\x7f\n",
        "1 12 123 1234 12345 123456789012345678901234567890 1.5e-10 0x1F \u00bd\u00b2\u2167\u0be7\u216b 1,000,000.00 ip 192.168.0.1\n",
        "a" + " " * 100 + "b" + " " * 7 + "\t\t\t \t" + "\n" * 9 + " \n \n  \n" + "\r" * 3 + "\n\r\n" + " " * 300 + "\n" + " " * 31,
        "x" * 200 + "-" * 150 + "=" * 64 + "ab" * 90 + "\u00e9" * 60 + "\u4e2d" * 70 + "\n",
        "<|endoftext|><|endoftext|> a<|endoftext|>b <|endoftext|>\n<|endoftext <|begin_of_text|>hi<|begin_of_text|><|begin_of_text|x\n",
        "  <left>  and  <right>  x<word>y <word> <word>, <word><word> \u00e9<word> <left> <left><right>   <right>  <norm>x<normal><norm>\n",
        "\u0600\U000e0001\U0010ffff\ue000\ufffd\ufffe\U00020000\U0002a6df \U0001d400\U0001d7d8 \u10d0\u1c90 \u01c5\u02b0\u00aa\u00ba _ __ a_b \u203f\n",
    ]
    text = "".join(parts) + "x  \u180e? x  \u180ey x  \u0085y x  \u200by\n" + words(rng, 250)
    pool = "ab '\n\r\t\u00a0\u0301\u4e2d\u0661\U0001f600.,<|>-_1\u00e9 s t d m"
    return text + "".join(rng.choice(pool) for _ in range(1500))


def make(text, pattern, vocab, added):
    """A tokenizer with GPT-2's split, or another pattern's, learned from one text as a whole."""
    t = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    t.pre_tokenizer = level if pattern is None else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), level])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([text], trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                      show_progress=False, max_token_length=None))
    if pattern is not None:
        t.post_processor = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", vocab)])
    t.add_special_tokens(added)
    return t


def save(t, path):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(json.loads(t.to_str()), f, ensure_ascii=False, separators=(",", ":"))


def load(path, edit=lambda file: None):
    with open(path, encoding="utf-8") as f:
        file = json.load(f)
    edit(file)
    return Tokenizer.from_str(json.dumps(file))


def prefix(file):
    file["pre_tokenizer"]["add_prefix_space"] = True


def whole_words(file):
    """LLaMA 3's own way: words that are tokens need no merges."""
    file["model"]["ignore_merges"] = True
    del file["model"]["merges"][300:]


def write_ids(path, ids):
    with open(path, "w") as f:
        f.write("\n".join(" ".join(map(str, ids[i:i + 32])) for i in range(0, len(ids), 32)) + "\n")


def encode(t, documents, parallel):
    """Ids of documents with the end of a text between them, and seconds: of all cores that computed, or on the clock if parallel."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if parallel else "false"
    clock = time.perf_counter if parallel else time.process_time
    start = clock()
    encodings = t.encode_batch_fast(documents, add_special_tokens=False)
    took = clock() - start
    ids, end = [], t.token_to_id(END)
    for encoding in encodings:
        ids += encoding.ids + [end]
    return ids[:-1], took


def check(file, text, ids):
    with open(text, encoding="utf-8", newline="") as f:
        documents = f.read().split(END)
    with open(ids) as f:
        given = list(map(int, f.read().split()))
    wanted, _ = encode(load(file), documents, True)
    if given != wanted:
        at = next((i for i, (a, b) in enumerate(zip(given, wanted)) if a != b), min(len(given), len(wanted)))
        sys.exit(f"{file}: {len(given)} and {len(wanted)} ids, from {at} on: {given[at:at + 8]}, expected {wanted[at:at + 8]}")


LLAMA_ADDED = [AddedToken("<|begin_of_text|>", special=True, normalized=False), AddedToken("<|endoftext|>", special=True, normalized=False),
               AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
               AddedToken("<word>", single_word=True, normalized=False), AddedToken("<norm", normalized=True),
               AddedToken("<normal>", normalized=True), AddedToken("<left><right", normalized=True)]


def short(folder):
    rng = random.Random(1)
    train, text = words(rng, 9000), nasty(rng)
    for name, content in (("train.txt", train), ("text.txt", text)):
        with open(os.path.join(folder, name), "w", encoding="utf-8", newline="") as f:
            f.write(content)
    save(make(train, None, 1500, [AddedToken(END, special=True, normalized=False)]), os.path.join(folder, "gpt2.json"))
    llama = make(train, LLAMA3, 1400, LLAMA_ADDED)
    save(llama, os.path.join(folder, "llama3.json"))
    for name, file, edit in (("gpt2", "gpt2", lambda f: None), ("gpt2_prefix", "gpt2", prefix), ("llama3", "llama3", lambda f: None),
                             ("llama3_whole", "llama3", whole_words)):
        t = load(os.path.join(folder, file + ".json"), edit)
        write_ids(os.path.join(folder, name + ".ids"), t.encode(text, add_special_tokens=False).ids)


def machine_text(limit):
    """Text of this machine's files, whatever there is, until there are `limit` bytes."""
    out, n = [], 0
    for root in ("/usr/share/doc", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/share/i18n", "/usr/share/perl", "/usr/include"):
        for path, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                if name.endswith((".gz", ".pyc", ".so", ".png", ".xz")) or n > limit:
                    continue
                try:
                    with open(os.path.join(path, name), encoding="utf-8", newline="") as f:
                        out.append(f.read(200000))
                except (OSError, UnicodeDecodeError):
                    continue
                n += len(out[-1])
    return out


def long(folder):
    rng = random.Random(2)
    os.makedirs(folder, exist_ok=True)
    pieces = machine_text(40 << 20) + [words(rng, 20000) for _ in range(40)] + [nasty(rng) for _ in range(20)]
    rng.shuffle(pieces)
    characters = [chr(c) for c in range(0x110000) if not 0xd800 <= c < 0xe000]
    documents = ["".join(characters[i:i + 4096]) for i in range(0, len(characters), 4096)]
    documents += [" " + " x".join(characters[i:i + 4096]) for i in range(0, 0x3000, 4096)]
    n = 0
    for piece in pieces:
        if n < 10 << 20:
            documents += piece.split(END)
            n += len(piece.encode())
    text = END.join(documents)
    for name, content in (("train.txt", "\n".join(pieces)), ("text.txt", text)):
        with open(os.path.join(folder, name), "w", encoding="utf-8", newline="") as f:
            f.write(content)
    for name, pattern, added in (("gpt2", None, [AddedToken(END, special=True, normalized=False)]), ("llama3", LLAMA3, LLAMA_ADDED)):
        path = os.path.join(folder, name + ".json")
        save(make("\n".join(pieces), pattern, 50000, added), path)
        ids, one = encode(load(path), documents, False)
        _, all_cores = encode(load(path), documents, True)
        write_ids(os.path.join(folder, name + ".ids"), ids)
        size = len(text.encode()) / 1e6
        print(f"{name}: {size:.1f} MB, tokenizers: {size / one:.2f} MB in a second of one core, {size / all_cores:.2f} MB/s on {os.cpu_count()}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "long":
        long(sys.argv[2])
    elif len(sys.argv) == 5 and sys.argv[1] == "check":
        check(*sys.argv[2:])
    else:
        short(os.path.dirname(os.path.abspath(__file__)))
