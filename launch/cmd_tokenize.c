/* helix tokenize: learn a tokenizer, encode, decode, look at one. */
#include "launch/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "io/text/tokenizer.h"

#define READ_BYTES (1 << 20)

static void close_fd(int *fd) {
    if (*fd > STDIN_FILENO) close(*fd);
}
static void free_bytes(char **bytes) { hx_mem_free((void **)bytes); }

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* All of a file, or of standard input where `path` is NULL or "-". */
static hx_status read_all(const char *path, hx_text *out) {
    bool is_input = !path || strcmp(path, "-") == 0;
    HX_CLEANUP(close_fd) int fd = is_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    for (ssize_t n = -1; fd >= 0 && n != 0;) {
        HX_TRY(hx_mem_grow((void **)&out->bytes, &out->capacity, out->n + READ_BYTES, 1));
        n = read(fd, out->bytes + out->n, READ_BYTES);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) break;
        out->n += n;
        if (n == 0) return HX_OK;
    }
    return HX_FAIL(HX_ERR_IO, "reading %s: %s", is_input ? "standard input" : path, strerror(errno));
}

static hx_status encode_all(const hx_tokenizer *t, const hx_text *text, hx_ids *ids) {
    HX_CLEANUP(hx_encoder_destroy) hx_encoder *e = NULL;
    HX_TRY(hx_encoder_create(t, &e));
    return hx_encode(e, text->bytes, (size_t)text->n, ids);
}

static const char *word_at(const hx_cli *cli, int i) { return i < cli->words.n ? cli->words.items[i] : NULL; }

/* ---- train ---- */

/* A bar on the terminal, one for each stage. */
typedef struct bar {
    int stage; /* -1: none yet */
    double drawn_at, began_at;
} bar;

static void draw_bar(void *self, hx_train_stage stage, int64_t n_done, int64_t n_total) {
    enum { WIDTH = 32 };
    bar *b = self;
    double now = now_s(), share = n_total > 0 ? (double)n_done / (double)n_total : 1;
    char signs[WIDTH + 1];
    if (b->stage != (int)stage) {
        if (b->stage >= 0) fputc('\n', stderr);
        *b = (bar){.stage = (int)stage, .began_at = now};
    }
    if (now - b->drawn_at < 0.1 && n_done < n_total) return;
    b->drawn_at = now;
    for (int i = 0; i < WIDTH; i++) signs[i] = i < share * WIDTH ? '#' : '.';
    signs[WIDTH] = '\0';
    if (stage == HX_TRAIN_COUNT)
        fprintf(stderr, "\rcounting words  [%s] %.1f of %.1f MB  %.0f s\033[K", signs, 1e-6 * (double)n_done, 1e-6 * (double)n_total, now - b->began_at);
    else
        fprintf(stderr, "\rlearning merges [%s] %lld of %lld  %.0f s\033[K", signs, (long long)n_done, (long long)n_total, now - b->began_at);
    fflush(stderr);
}

static hx_status run_train(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    HX_CLEANUP(hx_tokenizer_close) hx_tokenizer *t = NULL;
    const hx_cli_config *own = &cli->own;
    const hx_run_config *run = &cli->config.run;
    char unset[sizeof run->out];
    bar b = {.stage = -1};
    (void)session; /* local: no rank, no device */
    snprintf(unset, sizeof unset, "%s", run->out);
    HX_TRY(hx__cli_read(hx_command_find("tokenize train"), cli, argc, argv));
    if (strcmp(run->out, unset) == 0) return HX_FAIL(HX_ERR_CONFIG, "helix tokenize train expects --out FOLDER, where the tokenizer is written");
    hx_status status = hx_tokenizer_train(cli->words.items, cli->words.n, own->vocab, (int)run->threads, isatty(STDERR_FILENO) ? draw_bar : NULL, &b, &t);
    if (b.stage >= 0) fputc('\n', stderr);
    HX_TRY(status);
    HX_TRY(hx_tokenizer_save(t, run->out));
    int64_t vocab = hx_tokenizer_vocab(t);
    if (own->json)
        return hx__print_json(json_pack("{s:s, s:I, s:I}", "tokenizer", run->out, "vocab", (json_int_t)vocab, "wanted", (json_int_t)own->vocab));
    printf("%s: %lld ids%s\n", run->out, (long long)vocab, vocab < own->vocab ? ", fewer than asked for: no pair of tokens is left to merge" : "");
    return HX_OK;
}

/* ---- encode, decode ---- */

static hx_status print_ids_json(const hx_ids *ids, int64_t n_bytes) {
    json_t *list = json_array();
    for (int64_t i = 0; i < ids->n; i++) json_array_append_new(list, json_integer(ids->ids[i]));
    return hx__print_json(json_pack("{s:I, s:I, s:o}", "bytes", (json_int_t)n_bytes, "tokens", (json_int_t)ids->n, "ids", list));
}

static hx_status run_encode(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    HX_CLEANUP(hx_tokenizer_close) hx_tokenizer *t = NULL;
    HX_CLEANUP(hx_text_destroy) hx_text text = {0};
    HX_CLEANUP(hx_ids_destroy) hx_ids ids = {0};
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("tokenize encode"), cli, argc, argv));
    HX_TRY(hx_tokenizer_open(word_at(cli, 0), &t));
    HX_TRY(read_all(word_at(cli, 1), &text));
    HX_TRY(encode_all(t, &text, &ids));
    if (cli->own.json) return print_ids_json(&ids, text.n);
    for (int64_t i = 0; i < ids.n; i++) printf(i > 0 ? " %d" : "%d", ids.ids[i]);
    putchar('\n');
    return HX_OK;
}

/* Numbers with spaces, line ends or commas between them. */
static hx_status parse_ids(const char *text, hx_ids *out) {
    static const char between[] = " \t\r\n,";
    for (const char *at = text + strspn(text, between); *at; at += strspn(at, between)) {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || errno || id < 0 || id > INT32_MAX || (*end && !strchr(between, *end)))
            return HX_FAIL(HX_ERR_FORMAT, "'%.*s' at byte %lld of the ids: expected numbers from 0 to %d with spaces between them",
                           (int)(strcspn(at, between) < 32 ? strcspn(at, between) : 32), at, (long long)(at - text), INT32_MAX);
        HX_TRY(hx_mem_grow((void **)&out->ids, &out->capacity, out->n + 1, sizeof *out->ids));
        out->ids[out->n++] = (int32_t)id;
        at = end;
    }
    return HX_OK;
}

static hx_status run_decode(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    HX_CLEANUP(hx_tokenizer_close) hx_tokenizer *t = NULL;
    HX_CLEANUP(hx_text_destroy) hx_text numbers = {0};
    HX_CLEANUP(hx_text_destroy) hx_text text = {0};
    HX_CLEANUP(hx_ids_destroy) hx_ids ids = {0};
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("tokenize decode"), cli, argc, argv));
    HX_TRY(hx_tokenizer_open(word_at(cli, 0), &t));
    HX_TRY(read_all(word_at(cli, 1), &numbers));
    numbers.bytes[numbers.n] = '\0'; /* read_all has left room */
    if ((int64_t)strlen(numbers.bytes) != numbers.n) return HX_FAIL(HX_ERR_FORMAT, "a zero byte at %zu of the ids", strlen(numbers.bytes));
    HX_TRY(parse_ids(numbers.bytes, &ids));
    HX_TRY(hx_decode(t, ids.ids, ids.n, &text));
    fwrite(text.bytes, 1, (size_t)text.n, stdout);
    return HX_OK;
}

/* ---- show ---- */

/* What a tokenizer makes of a file. */
typedef struct use {
    int64_t n_bytes, n_tokens, n_ids; /* n_ids: different ones */
    double seconds;
} use;

static hx_status try_file(const hx_tokenizer *t, const char *path, use *out) {
    HX_CLEANUP(hx_text_destroy) hx_text text = {0};
    HX_CLEANUP(hx_ids_destroy) hx_ids ids = {0};
    HX_CLEANUP(free_bytes) char *seen = NULL;
    HX_TRY(hx_mem_alloc_array(hx_tokenizer_vocab(t), 1, (void **)&seen));
    HX_TRY(read_all(path, &text));
    double began = now_s();
    HX_TRY(encode_all(t, &text, &ids));
    *out = (use){.n_bytes = text.n, .n_tokens = ids.n, .seconds = now_s() - began};
    for (int64_t i = 0; i < ids.n; i++) {
        out->n_ids += !seen[ids.ids[i]];
        seen[ids.ids[i]] = 1;
    }
    return HX_OK;
}

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

/* What a file says must not steer a terminal. */
static void print_safely(const char *text) {
    for (size_t at = 0, n = strlen(text); at < n;) at += hx__print_character((const uint8_t *)text + at, n - at);
}

static void print_tokenizer(const char *path, const hx_tokenizer *t) {
    hx_tokenizer_info info;
    hx_tokenizer_info_get(t, &info);
    if (info.is_bytes) {
        printf("%s\n  bytes: 256 ids\n", path);
        return;
    }
    printf("%s\n  byte-level BPE: %lld ids, %lld merges%s%s\n", path, (long long)hx_tokenizer_vocab(t), (long long)info.n_merges,
           info.has_prefix_space ? ", a space before each text" : "", info.ignores_merges ? ", words that are tokens are not merged" : "");
    fputs("  words: ", stdout);
    print_safely(info.split ? info.split : "the whole text is one");
    printf("\n  hash %016llx\n", (unsigned long long)hx_tokenizer_hash(t));
    for (int64_t i = 0; i < info.n_added; i++) {
        int32_t id;
        bool is_special;
        const char *text = hx_tokenizer_added(t, i, &id, &is_special);
        printf("  %-7s %8d ", is_special ? "special" : "added", id);
        print_safely(text);
        putchar('\n');
    }
}

static json_t *tokenizer_json(const char *path, const hx_tokenizer *t) {
    hx_tokenizer_info info;
    char hash[32];
    json_t *added = json_object();
    hx_tokenizer_info_get(t, &info);
    for (int64_t i = 0; i < info.n_added; i++) {
        int32_t id;
        bool is_special;
        const char *text = hx_tokenizer_added(t, i, &id, &is_special);
        json_object_set_new(added, text, json_integer(id));
    }
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)hx_tokenizer_hash(t));
    return json_pack("{s:s, s:s, s:I, s:I, s:s, s:s?, s:o}", "tokenizer", path, "kind", info.is_bytes ? "bytes" : "byte-level BPE", "vocab",
                     (json_int_t)hx_tokenizer_vocab(t), "merges", (json_int_t)info.n_merges, "hash", hash, "split", info.split, "added", added);
}

static hx_status run_show(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    HX_CLEANUP(hx_tokenizer_close) hx_tokenizer *t = NULL;
    use u = {0};
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("tokenize show"), cli, argc, argv));
    const char *path = word_at(cli, 0), *file = word_at(cli, 1);
    HX_TRY(hx_tokenizer_open(path, &t));
    if (file) HX_TRY(try_file(t, file, &u));
    double per_token = ratio((double)u.n_bytes, (double)u.n_tokens);
    if (cli->own.json) {
        json_t *o = tokenizer_json(path, t);
        if (file)
            json_object_set_new(o, "text", json_pack("{s:s, s:I, s:I, s:f, s:I, s:f}", "file", file, "bytes", (json_int_t)u.n_bytes, "tokens",
                                                     (json_int_t)u.n_tokens, "bytes_per_token", per_token, "ids", (json_int_t)u.n_ids, "seconds", u.seconds));
        return hx__print_json(o);
    }
    print_tokenizer(path, t);
    if (file)
        printf("%s\n  %lld bytes, %lld tokens: %.3f bytes a token; %lld of the ids; %.2f s, %.1f MB/s\n", file, (long long)u.n_bytes, (long long)u.n_tokens,
               per_token, (long long)u.n_ids, u.seconds, ratio(1e-6 * (double)u.n_bytes, u.seconds));
    return HX_OK;
}

/* ---- the table ---- */

const hx_command hx_tokenize_verbs[] = {
    {.name = "tokenize train", .summary = "learn a byte-level BPE from text files", .run = run_train, .own = "|vocab|json|", .words = "FILE...",
     .min_words = 1, .max_words = INT32_MAX,
     .examples = "  helix tokenize train corpus.txt --vocab 8192 --out runs/tok   writes tokenizer.json, vocab.json and merges.txt there\n"
                 "  helix tokenize train text/*.txt --vocab 50257 --out runs/tok --threads 2\n"
                 "\nThe result depends on the text alone, not on threads. <|endoftext|> in a file separates documents. The files are those of\n"
                 "Hugging Face's tokenizers and of GPT-2: other tools read them.\n"},
    {.name = "tokenize encode", .summary = "text to ids, on one line", .run = run_encode, .own = "|json|", .words = "TOKENIZER [FILE]", .min_words = 1,
     .max_words = 2,
     .examples = "  helix tokenize encode runs/tok page.txt                      a file's; without one, of standard input\n"
                 "  echo Hello | helix tokenize encode gpt2/tokenizer.json --json\n"
                 "\nTOKENIZER is a tokenizer.json, a vocab.json with merges.txt beside it, a folder with either, or bytes.\n"},
    {.name = "tokenize decode", .summary = "ids to text", .run = run_decode, .own = "|", .words = "TOKENIZER [FILE]", .min_words = 1, .max_words = 2,
     .examples = "  echo 15496 11 995 | helix tokenize decode gpt2               numbers with spaces, commas or line ends between them\n"
                 "  helix tokenize encode runs/tok a.txt | helix tokenize decode runs/tok | cmp - a.txt    nothing is lost\n"},
    {.name = "tokenize show", .summary = "what a tokenizer is, and how well it fits a text", .run = run_show, .own = "|json|", .words = "TOKENIZER [FILE]",
     .min_words = 1, .max_words = 2,
     .examples = "  helix tokenize show runs/tok                                 ids, merges, special tokens, hash\n"
                 "  helix tokenize show runs/tok page.txt                        and bytes per token on a file: more is better\n"},
    {.name = NULL},
};
