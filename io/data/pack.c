/* 1. the files are cut into pieces: parts of a text that make ids of their own, or ranges of lines; 2. batches of pieces go to the threads, which make ids of them;
 * 3. what comes out is stored in the order of the pieces, and committed; 4. when all is done the data set is made of it.
 * How the files are cut decides where a killed pack goes on, and nothing of the result. */
#define _GNU_SOURCE
#include "io/data/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "core/base/mem.h"
#include "core/base/threads.h"
#include "io/data/pack_impl.h"

#define PIECES       128       /* of a batch */
#define PIECE_BYTES  (1 << 16) /* of a piece; a text is cut behind them where that is safe */
#define BATCH_BYTES  (1 << 23) /* of text, unless one piece has more */
#define COMMIT_BYTES (1 << 26) /* of text, at most, that is read again after a kill */

typedef struct input {
    const char *path;
    int64_t n_bytes;
    struct timespec changed;
    bool is_lines;
    const char *text; /* mapped while a batch needs it; NULL: not */
} input;

typedef struct packer {
    const hx_pack_config *config;
    const hx_tokenizer *tokenizer; /* borrowed */
    hx__piece_rules rules;
    input *inputs; /* [n_files]; owned */
    hx_pool *pool;
    hx_encoder **encoders; /* [n_threads]; owned */
    hx__piece pieces[PIECES];
    int n_pieces;
    int64_t file, offset; /* where the next piece begins */
    hx__pack_store *store;
    hx_pack_report report;
} packer;

/* ---- the files ---- */

static bool ends_in(const char *path, const char *end) {
    const size_t n = strlen(path), m = strlen(end);
    return n >= m && strcmp(path + n - m, end) == 0;
}

static hx_status look_at(input *in, XXH3_state_t *key) {
    struct stat st;
    if (stat(in->path, &st) != 0) return HX_FAIL(HX_ERR_IO, "%s: %s", in->path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return HX_FAIL(HX_ERR_IO, "%s is no regular file", in->path);
    in->n_bytes = st.st_size;
    in->changed = st.st_mtim;
    in->is_lines = ends_in(in->path, ".jsonl");
    const int64_t facts[] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
    XXH3_64bits_update(key, in->path, strlen(in->path) + 1);
    XXH3_64bits_update(key, facts, sizeof facts);
    return HX_OK;
}

/* The key of all that decides the result. */
static hx_status look_at_all(packer *p, const hx_tokenizer *tokenizer, uint64_t *out) {
    const int64_t facts[] = {2 /* of this key */, (int64_t)hx_tokenizer_hash(tokenizer), hx_tokenizer_vocab(tokenizer), p->rules.end_of_text};
    XXH3_state_t *key = XXH3_createState();
    hx_status status = key ? HX_OK : HX_FAIL(HX_ERR_MEMORY, "no memory for a hash");
    if (key) XXH3_64bits_reset(key);
    if (key) XXH3_64bits_update(key, facts, sizeof facts);
    if (key) XXH3_64bits_update(key, p->rules.field, strlen(p->rules.field) + 1);
    for (int i = 0; status == HX_OK && i < p->config->n_files; i++) {
        p->inputs[i].path = p->config->files[i];
        status = look_at(&p->inputs[i], key);
        p->report.n_bytes += p->inputs[i].n_bytes;
    }
    if (status == HX_OK) *out = XXH3_64bits_digest(key);
    XXH3_freeState(key);
    return status;
}

/* A file that has shrunk would end the process, another one would be half in the data set. */
static hx_status check_unchanged(const input *in, int fd) {
    struct stat st;
    if (fstat(fd, &st) != 0) return HX_FAIL(HX_ERR_IO, "%s: %s", in->path, strerror(errno));
    if (st.st_size == in->n_bytes && st.st_mtim.tv_sec == in->changed.tv_sec && st.st_mtim.tv_nsec == in->changed.tv_nsec) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "%s was written to while it was packed", in->path);
}

static hx_status map_input(input *in) {
    if (in->text || in->n_bytes == 0) return HX_OK;
    const int fd = open(in->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", in->path, strerror(errno));
    const hx_status status = check_unchanged(in, fd);
    if (status != HX_OK) {
        close(fd);
        return status;
    }
    void *text = mmap(NULL, (size_t)in->n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (text == MAP_FAILED) return HX_FAIL(HX_ERR_IO, "mapping %s: %s", in->path, strerror(errno));
    in->text = text;
    return HX_OK;
}

static void unmap_inputs(packer *p) {
    for (int i = 0; i < p->config->n_files; i++)
        if (p->inputs[i].text) {
            munmap((void *)(uintptr_t)p->inputs[i].text, (size_t)p->inputs[i].n_bytes);
            p->inputs[i].text = NULL;
        }
}

/* ---- batches ---- */

/* Lines find their ends by themselves. */
static hx_status find_end(const packer *p, const input *in, int64_t *end) {
    size_t at = (size_t)in->n_bytes;
    if (in->n_bytes - p->offset > PIECE_BYTES) at = (size_t)(p->offset + PIECE_BYTES);
    if ((int64_t)at < in->n_bytes && !in->is_lines) HX_TRY(hx_tokenizer_cut(p->tokenizer, in->text, (size_t)in->n_bytes, at, &at));
    *end = (int64_t)at;
    return HX_OK;
}

/* The next piece; the file must have something left. */
static hx_status cut_piece(packer *p) {
    input *in = &p->inputs[p->file];
    hx__piece *piece = &p->pieces[p->n_pieces];
    int64_t end;
    HX_TRY(map_input(in));
    HX_TRY(find_end(p, in, &end));
    piece->path = in->path;
    piece->text = in->text;
    piece->n_bytes = in->n_bytes;
    piece->begin = p->offset;
    piece->end = end;
    piece->is_lines = in->is_lines;
    p->n_pieces++;
    p->offset = end;
    return HX_OK;
}

static hx_status cut_batch(packer *p, int64_t *n_bytes) {
    p->n_pieces = 0;
    *n_bytes = 0;
    while (p->n_pieces < PIECES && *n_bytes < BATCH_BYTES && p->file < p->config->n_files) {
        if (p->offset == p->inputs[p->file].n_bytes) {
            p->file++;
            p->offset = 0;
            continue;
        }
        const int64_t before = p->offset;
        HX_TRY(cut_piece(p));
        *n_bytes += p->offset - before;
    }
    return HX_OK;
}

static void encode(void *arg, int64_t i, int worker) {
    packer *p = arg;
    hx__piece_encode(&p->pieces[i], &p->rules, p->encoders[worker]);
}

static hx_status store_batch(packer *p) {
    hx__pack_point point;
    for (int i = 0; i < p->n_pieces; i++) {
        if (p->pieces[i].status != HX_OK) return hx_error_adopt(p->pieces[i].status, p->pieces[i].message);
        HX_TRY(hx__pack_store_add(p->store, &p->pieces[i]));
    }
    HX_TRY(hx__pack_store_write(p->store, p->file, p->offset));
    hx__pack_store_point(p->store, &point);
    p->report.n_tokens = point.n_tokens;
    p->report.n_documents = point.n_documents;
    return HX_OK;
}

static hx_status pack_all(packer *p) {
    int64_t n_bytes, n_open = 0;
    for (;;) {
        HX_TRY(cut_batch(p, &n_bytes));
        if (p->n_pieces == 0) return n_open > 0 ? hx__pack_store_commit(p->store) : HX_OK;
        hx_pool_run(p->pool, p->n_pieces, encode, p);
        HX_TRY(store_batch(p));
        unmap_inputs(p);
        p->report.n_done += n_bytes;
        n_open += n_bytes;
        if (n_open >= COMMIT_BYTES) {
            HX_TRY(hx__pack_store_commit(p->store));
            n_open = 0;
        }
        if (p->config->progress) p->config->progress(p->config->progress_self, &p->report);
    }
}

/* ---- life ---- */

static hx_status start_threads(packer *p, const hx_tokenizer *tokenizer) {
    const int n = p->config->n_threads > 0 ? p->config->n_threads : hx_usable_cores();
    HX_TRY(hx_pool_create(n, &p->pool));
    HX_TRY(hx_mem_alloc_array(n, sizeof(hx_encoder *), (void **)&p->encoders));
    for (int i = 0; i < n; i++) HX_TRY(hx_encoder_create(tokenizer, &p->encoders[i]));
    return HX_OK;
}

static void packer_destroy(packer *p) {
    if (p->inputs) unmap_inputs(p);
    for (int i = 0; p->encoders && i < hx_pool_size(p->pool); i++) hx_encoder_destroy(&p->encoders[i]);
    for (int i = 0; i < PIECES; i++) hx__piece_destroy(&p->pieces[i]);
    hx__pack_store_close(&p->store);
    if (p->pool) hx_pool_destroy(&p->pool);
    hx_mem_free((void **)&p->encoders);
    hx_mem_free((void **)&p->inputs);
}

/* @param point  from the journal, whose hash does not say that it was written by this version */
static hx_status go_on_from(packer *p, const hx__pack_point *point) {
    const int n = p->config->n_files;
    if (point->file < 0 || point->file > n || point->offset < 0 || point->offset > (point->file < n ? p->inputs[point->file].n_bytes : 0))
        return HX_FAIL(HX_ERR_CORRUPT, "%s.pack/journal: byte %lld of file %lld of %d; remove the folder to begin anew", p->config->out,
                       (long long)point->offset, (long long)point->file, n);
    for (int64_t i = 0; i < point->file; i++) p->report.n_resumed += p->inputs[i].n_bytes;
    p->file = point->file;
    p->offset = point->offset;
    p->report.n_resumed += point->offset;
    p->report.n_done = p->report.n_resumed;
    p->report.n_tokens = point->n_tokens;
    p->report.n_documents = point->n_documents;
    return HX_OK;
}

static hx_status make_data_set(packer *p, const hx_tokenizer *tokenizer) {
    HX_TRY(start_threads(p, tokenizer));
    HX_TRY(pack_all(p));
    if (p->report.n_tokens == 0) return HX_FAIL(HX_ERR_FORMAT, "%d files without a document: there is nothing to pack", p->config->n_files);
    return hx__pack_store_finish(p->store, p->config->out, hx_tokenizer_vocab(tokenizer), hx_tokenizer_hash(tokenizer));
}

/* Remove the folder, and fail with what was found, whatever becomes of that. */
static hx_status give_up(packer *p, hx_status status) {
    char message[1024];
    snprintf(message, sizeof message, "%s", hx_error_message());
    (void)hx__pack_store_remove(p->store);
    return hx_error_adopt(status, message);
}

static hx_status run(packer *p, const hx_tokenizer *tokenizer) {
    const int64_t vocab = hx_tokenizer_vocab(tokenizer);
    hx__pack_point point;
    uint64_t key;
    bool is_done;
    HX_TRY(hx_mem_alloc_array(p->config->n_files, sizeof *p->inputs, (void **)&p->inputs));
    HX_TRY(look_at_all(p, tokenizer, &key));
    HX_TRY(hx__pack_store_open(p->config->out, key, vocab <= 256 ? 1 : vocab <= 65536 ? 2 : 4, &p->store, &point, &is_done));
    HX_TRY(go_on_from(p, &point));
    if (is_done && p->report.n_done < p->report.n_bytes) /* whose it is nobody knows */
        return HX_FAIL(HX_ERR_CONFIG, "%s is there already, and not of the pack that was begun: remove it to go on", p->config->out);
    hx_status status = is_done ? HX_OK : make_data_set(p, tokenizer);
    /* a file that is mended is another one: nothing of this is of use to it */
    if (status == HX_OK) return hx__pack_store_remove(p->store);
    return status == HX_ERR_FORMAT ? give_up(p, status) : status;
}

hx_status hx_pack(const hx_tokenizer *tokenizer, const hx_pack_config *config, hx_pack_report *report) {
    packer *p;
    if (config->n_files < 1) return HX_FAIL(HX_ERR_ARG, "no files: expected one at least");
    HX_TRY(hx_mem_alloc_array(1, sizeof *p, (void **)&p));
    p->config = config;
    p->tokenizer = tokenizer;
    p->rules = (hx__piece_rules){.field = config->field ? config->field : "text",
                                 .end_of_text = hx_tokenizer_special(tokenizer, HX_END_OF_TEXT)};
    const hx_status status = run(p, tokenizer);
    if (status == HX_OK && report) *report = p->report;
    packer_destroy(p);
    hx_mem_free((void **)&p);
    return status;
}
