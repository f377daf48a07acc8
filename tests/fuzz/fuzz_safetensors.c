#define _GNU_SOURCE
/* Fuzz the readers of Hugging Face's folders: the input is a .safetensors file, or, if it begins with {, an index and a config.json. Each is
 * refused with a message or understood; what is understood can be read to its last byte, and a configuration makes a model and survives
 * being written and read again. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/train/hooks.h"
#include "io/ckpt/hf.h"
#include "tests/fuzz/fuzz.h"

static long n_inputs, n_understood;
static char folder[256];

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *tmp = getenv("TMPDIR");
    (void)argc, (void)argv;
    snprintf(folder, sizeof folder, "%.200s/fuzz-safetensors-XXXXXX", tmp ? tmp : "/tmp");
    hx_fuzz_must(mkdtemp(folder) != NULL, "there is a folder for the input");
    return 0;
}

static void path_in(const char *name, char path[320]) { snprintf(path, 320, "%s/%s", folder, name); }

static void put(const char *name, const uint8_t *data, size_t size, char path[320]) {
    path_in(name, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    hx_fuzz_must(fd >= 0 && write(fd, data, size) == (ssize_t)size, "the input can be written");
    close(fd);
}

static bool is_understood(hx_status status) {
    hx_fuzz_must(status == HX_OK || ((status == HX_ERR_FORMAT || status == HX_ERR_UNSUPPORTED || status == HX_ERR_IO) && hx_error_message()[0]),
                 "a refusal has its code and a message");
    n_understood += status == HX_OK;
    return status == HX_OK;
}

static void read_all(const hx_safetensors *st) {
    volatile uint8_t sum = 0;
    for (int64_t i = 0; i < hx_safetensors_count(st); i++) {
        const hx_st_tensor *t = hx_safetensors_at(st, i), *same;
        hx_fuzz_must(hx_safetensors_find(st, t->name) == t, "a tensor is found by its name");
        if (hx_safetensors_get(st, t->name, &same) != HX_OK) continue;
        const int64_t n_bytes = hx_shape_count(&t->shape) * (int64_t)hx_dtype_bytes(t->dtype);
        for (int64_t k = 0; k < n_bytes; k++) sum = (uint8_t)(sum + ((const uint8_t *)t->data)[k]);
    }
}

static void try_weights(const char *path) {
    hx_safetensors *st = NULL;
    hx_error_clear();
    if (is_understood(hx_safetensors_open(path, &st))) read_all(st);
    hx_safetensors_close(&st);
}

/* As weights that have our own names: what is opened can be made, converted, to its last element. */
static void try_own(void) {
    hx_hf_import *in = NULL;
    double made[64];
    hx_error_clear();
    if (!is_understood(hx_hf_import_open_own(folder, HX_F64, &in))) return;
    const hx_state_list *items = hx_hf_import_items(in);
    for (int64_t i = 0; i < items->n_items; i++) {
        const hx_state_item *item = &items->items[i];
        const int64_t n = hx_shape_count(&item->layout->shape), most = (int64_t)(sizeof made / hx_dtype_bytes(item->dtype));
        for (int64_t at = 0; at < n; at += most)
            hx_fuzz_must(item->produce(item->source, at, n - at < most ? n - at : most, made) == HX_OK, "an element is made");
    }
    hx_hf_import_close(&in);
}

static bool are_equal(const hx_gpt_config *a, const hx_gpt_config *b) {
    char one[HX_OPTION_TEXT], other[HX_OPTION_TEXT];
    for (int i = 0; i < hx_gpt_n_options; i++) {
        hx_option_format(&hx_gpt_options[i], a, one, sizeof one);
        hx_option_format(&hx_gpt_options[i], b, other, sizeof other);
        if (strcmp(one, other) != 0) return false;
    }
    return true;
}

static void try_config(const char *path) {
    char again[320];
    hx_gpt_config config = HX_GPT_DEFAULT, back = HX_GPT_DEFAULT;
    hx_error_clear();
    if (!is_understood(hx_hf_config_read(path, &config))) return;
    path_in("again.json", again);
    hx_fuzz_must(hx_gpt_config_check(&config) == HX_OK, "what was understood makes a model");
    hx_fuzz_must(hx_hf_config_write(again, &config) == HX_OK && hx_hf_config_read(again, &back) == HX_OK, "what was understood can be written and read");
    hx_fuzz_must(are_equal(&config, &back), "a round trip changes nothing");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[320];
    n_inputs++;
    if (size > 0 && data[0] == '{') {
        put("config.json", data, size, path);
        try_config(path);
        put("model.safetensors.index.json", data, size, path);
    } else {
        put("model.safetensors", data, size, path);
    }
    try_weights(path);
    try_own();
    unlink(path);
    return 0;
}

bool hx_fuzz_end(void) {
    static const char *const names[] = {"config.json", "again.json"};
    char path[320];
    for (int i = 0; i < 2; i++) {
        path_in(names[i], path);
        unlink(path);
    }
    rmdir(folder);
    printf("%ld inputs, %ld understood\n", n_inputs, n_understood);
    return n_understood > 0 && n_understood < n_inputs;
}
