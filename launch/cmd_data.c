/* helix data: texts into token data sets, and what such a data set is. */
#include "launch/cli.h"

#include <inttypes.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "io/data/pack.h"

enum { SHOWN_TOKENS = 48, SCAN_TOKENS = 4096 };

/* ---- pack ---- */

typedef struct packing {
    double began, drawn_at; /* seconds; drawn_at 0: not yet */
} packing;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double rate_of(const packing *p, const hx_pack_report *r) {
    const double seconds = now_s() - p->began;
    return seconds > 0 ? (double)(r->n_done - r->n_resumed) / 1e6 / seconds : 0;
}

static void draw(void *self, const hx_pack_report *r) {
    enum { WIDTH = 24 };
    packing *p = self;
    char bar[WIDTH + 1];
    const double now = now_s(), share = r->n_bytes > 0 ? (double)r->n_done / (double)r->n_bytes : 1, rate = rate_of(p, r);
    if (now - p->drawn_at < 0.1 && r->n_done < r->n_bytes) return;
    for (int i = 0; i < WIDTH; i++) bar[i] = i < share * WIDTH ? '#' : '.';
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r[%s] %3.0f%%  %.0f of %.0f MB  %.1f MB/s  %.1fM tokens  left %.0f s\033[K", bar, 100 * share, (double)r->n_done / 1e6,
            (double)r->n_bytes / 1e6, rate, (double)r->n_tokens / 1e6, rate > 0 ? (double)(r->n_bytes - r->n_done) / 1e6 / rate : 0);
    p->drawn_at = now;
}

static hx_status print_packed(const hx_cli *cli, const hx_pack_report *r, double rate) {
    const char *out = cli->config.run.out;
    if (cli->own.json)
        return hx__print_json(json_pack("{s:s, s:I, s:I, s:I, s:I, s:f}", "file", out, "tokens", (json_int_t)r->n_tokens, "documents",
                                        (json_int_t)r->n_documents, "bytes", (json_int_t)r->n_bytes, "resumed_bytes",
                                        (json_int_t)r->n_resumed, "mb_per_s", rate));
    if (r->n_resumed > 0) printf("went on after %.1f MB\n", (double)r->n_resumed / 1e6);
    printf("%s: %lld tokens in %lld documents, of %lld bytes of text, %.1f MB/s\n", out, (long long)r->n_tokens, (long long)r->n_documents,
           (long long)r->n_bytes, rate);
    return HX_OK;
}

static hx_status cmd_pack(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    static const hx_run_config defaults = HX_RUN_DEFAULT;
    hx_tokenizer *tokenizer = NULL;
    hx_pack_report report;
    packing p = {.began = now_s()};
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("data pack"), cli, argc, argv));
    if (strcmp(cli->config.run.out, defaults.out) == 0)
        return HX_FAIL(HX_ERR_CONFIG, "helix data pack: expected --out FILE, e.g. --out train.h5");
    HX_TRY(hx_tokenizer_open(cli->own.tokenizer, &tokenizer));
    const hx_pack_config c = {.files = cli->words.items, .n_files = cli->words.n, .out = cli->config.run.out, .field = cli->own.field,
                              .n_threads = (int)cli->config.run.threads, .progress = isatty(STDERR_FILENO) ? draw : NULL, .progress_self = &p};
    const hx_status status = hx_pack(tokenizer, &c, &report);
    if (p.drawn_at > 0) fputs("\n", stderr);
    hx_tokenizer_close(&tokenizer);
    return status == HX_OK ? print_packed(cli, &report, rate_of(&p, &report)) : status;
}

/* ---- show ---- */

/* The tokenizer that --tokenizer names, or bytes, if it may have made these ids; NULL: it is not known which did. */
static hx_status find_tokenizer(const hx_cli *cli, const hx_tokens_info *info, hx_tokenizer **out) {
    hx_tokenizer *t;
    *out = NULL;
    HX_TRY(hx_tokenizer_open(cli->own.tokenizer, &t));
    const bool is_bytes = hx_tokenizer_hash(t) == 0, is_told = info->tokenizer != 0;
    if (is_bytes ? info->vocab == 256 && !is_told : !is_told || info->tokenizer == hx_tokenizer_hash(t)) {
        *out = t;
        return HX_OK;
    }
    hx_tokenizer_close(&t);
    return is_bytes ? HX_OK : HX_FAIL(HX_ERR_MISMATCH, "%s was made by another tokenizer than %s", info->path, cli->own.tokenizer);
}

static int n_shown(const hx_tokens_info *info) { return info->n_tokens < SHOWN_TOKENS ? (int)info->n_tokens : SHOWN_TOKENS; }

/* What would steer a terminal, and what is no ASCII, as \xNN. */
static void print_escaped(const hx_text *text) {
    for (int64_t i = 0; i < text->n; i++) {
        const unsigned char c = (unsigned char)text->bytes[i];
        if (c < 0x80 && isprint(c))
            putchar(c);
        else
            printf(c == '\n' ? "\\n" : "\\x%02x", c);
    }
    putchar('\n');
}

static void print_info(const hx_tokens_info *info, const int32_t *ids, const hx_text *text) {
    printf("%s\n  %s, %lld tokens, %lld document%s, ids below %lld%s\n", info->path, info->format, (long long)info->n_tokens,
           (long long)info->n_documents, info->n_documents == 1 ? "" : "s", (long long)info->vocab, info->has_loss_mask ? ", some are no targets" : "");
    printf("  hash %016" PRIx64 ", tokenizer %016" PRIx64 "\n  ids ", info->hash, info->tokenizer);
    for (int i = 0; i < n_shown(info); i++) printf(" %d", ids[i]);
    puts(info->n_tokens > SHOWN_TOKENS ? " ..." : "");
    if (!text) return;
    printf("  text ");
    print_escaped(text);
}

/* Hashes as text: JSON's numbers are no 64-bit integers for most readers. */
static hx_status print_info_json(const hx_tokens_info *info, const int32_t *ids) {
    char hash[17], tokenizer[17];
    json_t *first = json_array();
    snprintf(hash, sizeof hash, "%016" PRIx64, info->hash);
    snprintf(tokenizer, sizeof tokenizer, "%016" PRIx64, info->tokenizer);
    for (int i = 0; i < n_shown(info); i++) json_array_append_new(first, json_integer(ids[i]));
    return hx__print_json(json_pack("{s:s, s:s, s:I, s:I, s:I, s:b, s:s, s:s, s:o}", "file", info->path, "format", info->format, "tokens",
                                    (json_int_t)info->n_tokens, "documents", (json_int_t)info->n_documents, "vocab", (json_int_t)info->vocab,
                                    "loss_mask", (int)info->has_loss_mask, "hash", hash, "tokenizer", tokenizer, "first", first));
}

static hx_status show_tokens(const hx_cli *cli, const hx_tokens *tokens) {
    hx_tokens_info info;
    hx_tokenizer *tokenizer = NULL;
    hx_text text = {0};
    int32_t ids[SHOWN_TOKENS];
    hx_tokens_info_get(tokens, &info);
    HX_TRY(hx_tokens_read(tokens, 0, n_shown(&info), ids));
    if (cli->own.json) return print_info_json(&info, ids);
    HX_TRY(find_tokenizer(cli, &info, &tokenizer));
    hx_status status = tokenizer ? hx_decode(tokenizer, ids, n_shown(&info), &text) : HX_OK;
    if (status == HX_OK) print_info(&info, ids, tokenizer ? &text : NULL);
    hx_text_destroy(&text);
    hx_tokenizer_close(&tokenizer);
    return status;
}

static hx_status cmd_show(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    hx_tokens *tokens;
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("data show"), cli, argc, argv));
    HX_TRY(hx_tokens_open(cli->words.items[0], &tokens));
    const hx_status status = show_tokens(cli, tokens);
    hx_tokens_close(&tokens);
    return status;
}

/* ---- verify ---- */

static hx_status verify_tokens(const hx_tokens *tokens, bool json) {
    int32_t ids[SCAN_TOKENS];
    hx_tokens_info info;
    hx_tokens_info_get(tokens, &info);
    if (hx_tokens_rehash(tokens) != info.hash)
        return HX_FAIL(HX_ERR_CORRUPT, "%s: what it holds has another hash than the file says (%016" PRIx64 ")", info.path, info.hash);
    for (int64_t at = 0; at < info.n_tokens; at += SCAN_TOKENS)
        HX_TRY(hx_tokens_read(tokens, at, info.n_tokens - at < SCAN_TOKENS ? info.n_tokens - at : SCAN_TOKENS, ids));
    if (json) return hx__print_json(json_pack("{s:s, s:I, s:b}", "file", info.path, "tokens", (json_int_t)info.n_tokens, "verified", 1));
    printf("%s: %lld tokens in %lld documents are as they should be\n", info.path, (long long)info.n_tokens, (long long)info.n_documents);
    return HX_OK;
}

static hx_status cmd_verify(hx_cli *cli, int argc, char *const *argv, hx_session **session) {
    hx_tokens *tokens;
    (void)session;
    HX_TRY(hx__cli_read(hx_command_find("data verify"), cli, argc, argv));
    HX_TRY(hx_tokens_open(cli->words.items[0], &tokens));
    const hx_status status = verify_tokens(tokens, cli->own.json);
    hx_tokens_close(&tokens);
    return status;
}

const hx_command hx_data_verbs[] = {
    {.name = "data pack", .summary = "text files into one file of tokens", .run = cmd_pack, .own = "|tokenizer|field|json|",
     .words = "FILE...", .min_words = 1, .max_words = INT32_MAX,
     .examples = "  helix data pack books/*.txt --out train.h5 --tokenizer gpt2/      each file is a document\n"
                 "  helix data pack web.jsonl --out train.h5 --tokenizer gpt2/ --field content --threads 8\n"
                 "  helix data pack chats.jsonl --out chats.h5                       of {\"prompt\", \"completion\"} only the latter is learnt\n"
                 "  helix train --data.path train.h5,chats.h5 --data.weights 0.9,0.1 --model.vocab 50304\n"
                 "\nOf a .jsonl file a line that is no JSON object with these strings ends the pack, by file and number; half a surrogate pair\n"
                 "(\"\\ud83d\" alone) is read as U+FFFD, a byte order mark at the begin of the file is passed over.\n"
                 "A pack that was killed goes on where it was when it is started again with the same arguments; --out and --threads\n"
                 "(0: all cores) are the run's.\n"},
    {.name = "data show", .summary = "what a data set is, and how it begins", .run = cmd_show, .own = "|tokenizer|json|",
     .words = "PATH", .min_words = 1, .max_words = 1,
     .examples = "  helix data show train.h5 --tokenizer gpt2/                       tokens, documents, hash, the first text\n"
                 "  helix data show fineweb_train_000001.bin --json                  llm.c's and nanoGPT's files too\n"},
    {.name = "data verify", .summary = "read all of a data set, compare its hash", .run = cmd_verify, .own = "|json|",
     .words = "PATH", .min_words = 1, .max_words = 1,
     .examples = "  helix data verify train.h5\n"},
    {.name = NULL},
};
