/* Throws damaged and odd checkpoints at the reader: it must return, and what it accepts must be what was saved.
 *
 * An input is a recipe, a string of choices; where it ends, the rest is drawn from a generator that it seeds. The first choice is one of
 * five ways to make a file: bytes of a good file changed, cut or moved; fields of the seal changed and its checksum made right again,
 * so that the checks behind it are reached; a file made through HDF5 that is sealed as ours are, but contains what ours never do; the
 * contents of a good file with one thing changed; a good file whose list of blocks lies. (Damaged metadata under a right seal would test HDF5, not Helix.) The good file is
 * written at the start. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <ftw.h>
#include <hdf5.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/base/mem.h"
#include "core/base/rng.h"
#include "io/ckpt/ckpt_impl.h"
#include "tests/fuzz/fuzz.h"

#define N_ELEMS    600
#define MORE_BYTES 4096 /* put behind a good file */

/* ---- choices ---- */

typedef struct recipe {
    const uint8_t *data; /* [left] of the input, borrowed */
    size_t left;
    hx_rng rng;
    uint64_t n_drawn;
} recipe;
static recipe input;

/* One of n: as few bytes of the input as n needs, or a number of the generator. */
static uint64_t draw(uint64_t n) {
    size_t n_bytes = n <= 1 << 8 ? 1 : n <= 1 << 16 ? 2 : 8;
    uint64_t value = 0;
    if (n == 0) return 0;
    if (input.left < n_bytes) return hx_rng_below(input.rng, input.n_drawn++, n);
    memcpy(&value, input.data, n_bytes);
    input.data += n_bytes;
    input.left -= n_bytes;
    return value % n;
}

static uint64_t draw_any(void) { /* often a small number, a power of two, or one beside it */
    uint64_t r = draw(UINT64_MAX);
    switch (draw(4)) {
    case 0: return r % 300;
    case 1: return ((uint64_t)1 << r % 64) + (r >> 60) - 8;
    case 2: return (uint64_t)0 - r % 300;
    default: return r;
    }
}

static float values[N_ELEMS], original[N_ELEMS];
static hx_layout layout;
static hx_state_item item = {.name = "/model/w", .dtype = HX_F32, .layout = &layout, .data = values, .n_replicas = 1};
static const hx_state_list items = {.items = &item, .n_items = 1};
static hx_comm *comm;
static char folder[200], file[256];
static uint8_t *good, *bad; /* [n_good], [n_good + MORE_BYTES] */
static size_t n_good;

static void write_bad(size_t n) {
    FILE *f = fopen(file, "w");
    hx_fuzz_must(f && fwrite(bad, 1, n, f) == n && fclose(f) == 0, "a file is written");
}

/* ---- 1: bytes ---- */

static void damage_bytes(void) {
    size_t n = n_good;
    memcpy(bad, good, n);
    switch (draw(4)) {
    case 0: n = draw(n); break;
    case 1:
        memset(bad + n, (int)draw(256), MORE_BYTES);
        n += draw(MORE_BYTES);
        break;
    case 2: { /* move a run */
        size_t length = draw(512), from = draw(n - length), to = draw(n - length);
        memmove(bad + to, bad + from, length);
        break;
    }
    default:
        for (uint64_t i = draw(8) + 1; i > 0; i--) {
            uint8_t *byte = bad + draw(draw(2) ? n : 1024);
            *byte = (uint8_t)draw(256);
        }
    }
    write_bad(n);
}

/* ---- 2: the seal ---- */

static void damage_seal(void) {
    uint64_t words[64], block = 512;
    memcpy(bad, good, n_good);
    memcpy(words, bad, sizeof words);
    for (uint64_t i = draw(3) + 1; i > 0; i--) {
        uint64_t *word = words + 2 + draw(12);
        *word = draw_any();
    }
    if (draw(2)) words[6] = block = 512;
    words[7] = 0;
    memcpy(bad, words, sizeof words);
    if (words[6] <= n_good && words[6] >= 64) block = words[6];
    words[7] = XXH3_64bits(bad, block);
    memcpy(bad, words, sizeof words);
    write_bad(n_good);
}

/* Half of the files that we seal ourselves claim to be of format 1. */
static void seal_any(void) {
    uint64_t words[64];
    hx_fuzz_must(hx__seal_write(file, 512, NULL, 0) == HX_OK, "a file is sealed");
    if (draw(2)) return;
    int fd = open(file, O_RDWR);
    hx_fuzz_must(fd >= 0 && pread(fd, words, sizeof words, 0) == sizeof words, "its seal is read");
    words[2] = 1;
    words[7] = 0;
    words[7] = XXH3_64bits(words, sizeof words);
    hx_fuzz_must(pwrite(fd, words, sizeof words, 0) == sizeof words && close(fd) == 0, "its seal is written");
}

/* ---- 3: the contents ---- */

static hid_t odd_type(void) {
    switch (draw(8)) {
    case 0: return H5T_STD_I16LE;
    case 1: return H5T_IEEE_F32BE;
    case 2: return H5T_C_S1;
    case 3: return H5T_NATIVE_OPAQUE;
    case 4: return H5T_IEEE_F64LE;
    case 5: return H5T_STD_REF_OBJ;
    default: return H5T_IEEE_F32LE;
    }
}

static hid_t odd_space(void) {
    hsize_t dims[12];
    int ndim = (int)draw(12);
    if (draw(8) == 0) return H5Screate(H5S_NULL);
    if (draw(2)) return H5Screate_simple(2, (hsize_t[]){20, 30}, NULL);
    for (int d = 0; d < ndim; d++) dims[d] = draw(3) ? draw(5) : draw_any();
    return ndim ? H5Screate_simple(ndim, dims, NULL) : H5Screate(H5S_SCALAR);
}

static void odd_attr(hid_t object, const char *name, hid_t usual, hsize_t n) {
    uint64_t buffer[64];
    if (draw(12) == 0) return;
    for (int i = 0; i < 64; i++) buffer[i] = draw_any();
    hid_t type = draw(6) ? usual : odd_type();
    if (draw(6) == 0) n = draw(60);
    hid_t text = H5Tcopy(H5T_C_S1);
    H5Tset_size(text, draw(3) ? 1 + draw(60) : H5T_VARIABLE);
    bool is_text = draw(10) == 0;
    hid_t space = draw(20) ? H5Screate_simple(1, &n, NULL) : H5Screate(H5S_SCALAR);
    hid_t attr = H5Acreate2(object, name, is_text ? text : type, space, H5P_DEFAULT, H5P_DEFAULT);
    /* texts of variable length and references stay unwritten: their bytes in memory are pointers */
    if (attr >= 0 && !is_text && n <= 8 && type == usual) H5Awrite(attr, type, buffer);
    if (attr >= 0) H5Aclose(attr);
    H5Sclose(space);
    H5Tclose(text);
}

static void odd_dataset(hid_t h5, const char *name) {
    hid_t create = H5Pcreate(H5P_DATASET_CREATE), links = H5Pcreate(H5P_LINK_CREATE);
    hid_t space = odd_space();
    H5Pset_create_intermediate_group(links, 1);
    switch (draw(6)) {
    case 0:
        H5Pset_chunk(create, 2, (hsize_t[]){5, 5});
        H5Pset_deflate(create, 1);
        break;
    case 1: H5Pset_layout(create, H5D_COMPACT); break;
    case 2: H5Pset_external(create, "/etc/hostname", 0, 20 * 30 * 4); break;
    case 3: H5Pset_alloc_time(create, H5D_ALLOC_TIME_LATE); break;
    /* reserving what an odd shape asks for would fill the disk: only usual ones are reserved */
    default: if (H5Sget_simple_extent_npoints(space) < 10000) H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY);
    }
    hid_t set = H5Dcreate2(h5, name, odd_type(), space, links, create, H5P_DEFAULT);
    if (set >= 0) {
        odd_attr(set, "xxh3", H5T_STD_U64LE, 1);
        odd_attr(set, "xxh3_block", H5T_STD_I64LE, 1);
        odd_attr(set, "hash", H5T_STD_U64LE, 1);
        H5Dclose(set);
    }
    H5Sclose(space);
    H5Pclose(create);
    H5Pclose(links);
}

static void odd_links(hid_t h5) {
    char name[600];
    hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    switch (draw(7)) {
    case 0: H5Lcreate_soft("/model/other", h5, "/model/w", links, H5P_DEFAULT); break;
    case 1: H5Lcreate_soft("/model/w", h5, "/model/w", links, H5P_DEFAULT); break;
    case 2: H5Lcreate_external("/etc/passwd", "/", h5, "/model/w", links, H5P_DEFAULT); break;
    case 3: H5Lcreate_hard(h5, "/", h5, "/model/w", links, H5P_DEFAULT); break;
    case 4: H5Lcreate_hard(h5, "/", h5, "/again", links, H5P_DEFAULT); break;
    case 5: /* a name or a depth beyond ours */
        for (size_t i = 0; i < sizeof name - 1; i++) name[i] = draw(2) && i % 2 == 0 ? '/' : 'x';
        name[0] = '/';
        name[sizeof name - 1] = 0;
        odd_dataset(h5, name);
        break;
    default: {
        hid_t type = H5Tcopy(H5T_STD_I32LE);
        H5Tcommit2(h5, "/model/w", type, links, H5P_DEFAULT, H5P_DEFAULT);
        H5Tclose(type);
    }
    }
    H5Pclose(links);
}

static void odd_group(hid_t h5, const char *name, const char *const *attrs, int n) {
    if (draw(15) == 0) return;
    hid_t group = H5Gcreate2(h5, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (group < 0) return;
    for (int i = 0; i < n; i++) {
        bool is_real = strstr(attrs[i], "loss") || strstr(attrs[i], "elapsed");
        bool is_key = strcmp(attrs[i], "seed") == 0 || strcmp(attrs[i], "state_hash") == 0;
        odd_attr(group, attrs[i], is_real ? H5T_IEEE_F64LE : is_key ? H5T_STD_U64LE : H5T_STD_I64LE, 1);
    }
    H5Gclose(group);
}

static void make_odd_file(void) {
#define NAME_(field, type) #field,
    static const char *const state[] = {HX_CKPT_STATE_FIELDS(NAME_)};
    static const char *const meta[] = {"format", "world_size", "versions", "config", "helix", "hosts", "state_hash"};
#undef NAME_
    hid_t create = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_userblock(create, 512);
    hid_t h5 = H5Fcreate(file, H5F_ACC_TRUNC, create, H5P_DEFAULT);
    H5Pclose(create);
    hx_fuzz_must(h5 >= 0, "HDF5 creates a file");
    odd_group(h5, "/train", state, sizeof state / sizeof *state);
    odd_group(h5, "/meta", meta, sizeof meta / sizeof *meta);
    if (draw(2)) odd_links(h5);
    odd_dataset(h5, "/model/w");
    if (draw(2)) odd_dataset(h5, "/optim/m/w");
    if (draw(2)) odd_dataset(h5, "/meta/blocks");
    H5Fclose(h5);
    seal_any();
}

/* Some numbers of a small dataset. */
static void change_elements(hid_t h5, const char *name) {
    uint64_t words[512];
    hid_t set = H5Dopen2(h5, name, H5P_DEFAULT);
    if (set < 0) return;
    hid_t type = H5Dget_type(set), space = H5Dget_space(set);
    const size_t n_words = (size_t)H5Sget_simple_extent_npoints(space) * H5Tget_size(type) / sizeof *words;
    bool is_flat = H5Tdetect_class(type, H5T_VLEN) == 0 && H5Tis_variable_str(type) == 0; /* no pointers in memory */
    if (is_flat && n_words > 0 && n_words < sizeof words / sizeof *words && H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, words) >= 0) {
        for (uint64_t i = draw(3) + 1; i > 0; i--) {
            uint64_t *word = words + draw(n_words);
            *word = draw_any();
        }
        H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, words);
    }
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(set);
}

/* A copy of the good file without its seal, to be changed. */
static hid_t open_good(void) {
    memcpy(bad, good, n_good);
    memset(bad, 0, 512);
    write_bad(n_good);
    hid_t h5 = H5Fopen(file, H5F_ACC_RDWR, H5P_DEFAULT);
    hx_fuzz_must(h5 >= 0, "HDF5 opens a file of ours");
    return h5;
}

static void make_lying_file(void) {
    hid_t h5 = open_good();
    change_elements(h5, "/meta/blocks");
    H5Fclose(h5);
    hx_fuzz_must(hx__seal_write(file, 512, NULL, 0) == HX_OK, "a file is sealed");
}

/* The contents of a good file with one thing changed, or a few: gets further than an odd file. */
static void make_changed_file(void) {
    hid_t h5 = open_good();
    static const char *const paths[] = {"/train", "/meta", "/model/w"};
    const char *path = paths[draw(3)];
    hid_t object = H5Oopen(h5, path, H5P_DEFAULT);
    char name[64] = "";
    H5O_info_t info;
    H5Oget_info2(object, &info, H5O_INFO_NUM_ATTRS);
    H5Aget_name_by_idx(h5, path, H5_INDEX_NAME, H5_ITER_INC, draw(info.num_attrs), name, sizeof name, H5P_DEFAULT);
    H5Adelete(object, name);
    odd_attr(object, name, strstr(name, "loss") ? H5T_IEEE_F64LE : H5T_STD_I64LE, 1);
    H5Oclose(object);
    const char *set = draw(2) ? "/model/w" : "/meta/blocks";
    if (draw(3) == 0) change_elements(h5, set);
    if (draw(3) == 0) {
        H5Ldelete(h5, set, H5P_DEFAULT);
        odd_dataset(h5, set);
    }
    if (draw(4) == 0) odd_links(h5);
    H5Fclose(h5);
    seal_any();
}

/* ---- the reader ---- */

static long n_inputs, n_accepted;

/* @param is_ours  the file was saved by Helix and damaged: what is accepted must then be what was saved */
static void read_it(bool is_ours) {
    hx_ckpt_info info;
    hx_ckpt_partial partial;
    hx_ckpt_report report;
    hx_train_state state, before;
    char *text;
    memset(values, 0, sizeof values);
    memset(&state, 0x5a, sizeof state);
    before = state;
    if (hx_ckpt_load(comm, file, &items, &state) == HX_OK) {
        hx_fuzz_must(!is_ours || memcmp(values, original, sizeof values) == 0, "no wrong numbers are accepted");
        hx_fuzz_must(!is_ours || state.step == 1, "no wrong state is accepted");
        n_accepted++;
    } else {
        hx_fuzz_must(memcmp(&state, &before, sizeof state) == 0, "a load that fails leaves the state alone");
    }
    if (hx_ckpt_load_partial(comm, file, &items, &state, &partial) == HX_OK) hx_ckpt_partial_destroy(&partial);
    if (hx_ckpt_inspect(file, true, &info) == HX_OK) hx_ckpt_info_destroy(&info);
    if (hx_ckpt_verify(file, &report) == HX_OK) hx_ckpt_report_destroy(&report);
    if (hx_ckpt_config_text(file, &text) == HX_OK) hx_mem_free((void **)&text);
    hx_fuzz_must(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL) == 0, "HDF5 holds no handles afterwards");
}

static void make_good(void) {
    static const hx_ckpt_config config = HX_CKPT_DEFAULT;
    char good_file[HX_PATH_BYTES];
    hx_ckpt *ckpt;
    struct stat st;
    for (int i = 0; i < N_ELEMS; i++) original[i] = values[i] = (float)i;
    hx_fuzz_must(hx_layout_full(&HX_SHAPE(20, 30), &layout) == HX_OK && hx_comm_self_open(&comm) == HX_OK, "set-up");
    hx_fuzz_must(hx_ckpt_open(comm, folder, &config, "a: 1\n", &ckpt) == HX_OK, "a folder is opened");
    hx_fuzz_must(hx_ckpt_save(ckpt, &(hx_train_state){.step = 1}, &items, false) == HX_OK, "a checkpoint is saved");
    hx_fuzz_must(hx_ckpt_resolve(folder, good_file) == HX_OK && stat(good_file, &st) == 0, "it is found");
    hx_ckpt_close(&ckpt);
    n_good = (size_t)st.st_size;
    good = malloc(n_good);
    bad = malloc(n_good + MORE_BYTES);
    FILE *f = fopen(good_file, "r");
    hx_fuzz_must(good && bad && f && fread(good, 1, n_good, f) == n_good, "it is read back");
    fclose(f);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *walk) {
    (void)st, (void)kind, (void)walk;
    return remove(path);
}

static void close_all(void) {
    hx_layout_destroy(&layout);
    hx_comm_close(&comm);
    free(good);
    free(bad);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.150s/helix-fuzz-XXXXXX", tmp ? tmp : "/tmp");
    hx_fuzz_must(mkdtemp(folder), "there is a folder for temporary files");
    snprintf(file, sizeof file, "%s/bad.h5", folder);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    make_good();
    atexit(close_all);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const makers[])(void) = {damage_bytes, damage_seal, make_odd_file, make_changed_file, make_lying_file};
    input = (recipe){.data = data, .left = size, .rng.seed = XXH3_64bits(data, size)};
    uint64_t maker = draw(5);
    hx_error_clear();
    makers[maker]();
    read_it(maker < 2);
    n_inputs++;
    return 0;
}

bool hx_fuzz_end(void) {
    printf("%ld files, %ld accepted, none of them wrong\n", n_inputs, n_accepted);
    return n_accepted > 0 && n_accepted < n_inputs / 2;
}
