/* Fuzz the configuration reader: YAML of any kind must be refused with a message or understood, never crash, and what is
 * understood must survive being written and read again. */
#include <string.h>

#include "core/base/mem.h"
#include "launch/compose.h"
#include "tests/fuzz/fuzz.h"

static long n_inputs, n_understood;

/* What is written is read as the same: the second text is the first one. */
static void survives_round_trip(const hx_config *config) {
    hx_config back = HX_CONFIG_DEFAULT;
    char *first = NULL, *second = NULL;
    hx_fuzz_must(hx_config_text(config, &first) == HX_OK, "what was understood can be written");
    hx_fuzz_must(hx_config_parse(&back, first, strlen(first), "written") == HX_OK, "what was written is understood");
    hx_fuzz_must(hx_config_text(&back, &second) == HX_OK && strcmp(first, second) == 0, "a round trip changes nothing");
    hx_mem_free((void **)&first);
    hx_mem_free((void **)&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    hx_config config = HX_CONFIG_DEFAULT;
    hx_error_clear(); /* the message looked for is not that of an input before */
    hx_status status = hx_config_parse(&config, (const char *)data, size, "fuzz");
    n_inputs++;
    if (status == HX_OK) {
        n_understood++;
        survives_round_trip(&config);
    } else {
        hx_fuzz_must(status == HX_ERR_CONFIG && hx_error_message()[0], "a refusal is HX_ERR_CONFIG with a message");
    }
    return 0;
}

bool hx_fuzz_end(void) {
    printf("%ld inputs, %ld understood\n", n_inputs, n_understood);
    return n_understood > n_inputs / 100 && n_understood < n_inputs;
}
