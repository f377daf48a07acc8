#include <criterion/criterion.h>
#include <string.h>

#include "core/base/arena.h"
#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/base/status.h"

static hx_status odd_is_refused(int n) {
    if (n % 2) return HX_FAIL(HX_ERR_ARG, "n = %d: expected an even number", n);
    return HX_OK;
}

static hx_status caller(int n) {
    HX_TRY(odd_is_refused(n));
    return HX_OK;
}

Test(status, message_names_rank_host_code_function_and_values) {
    hx_error_set_identity(3, 8, "node07");
    cr_assert_eq(caller(5), HX_ERR_ARG);
    cr_assert_str_eq(hx_error_message(), "[rank 3/8 node07] HX_ERR_ARG odd_is_refused: n = 5: expected an even number");
}

Test(status, trace_lists_the_callers_innermost_first) {
    (void)caller(5);
    const char *inner = strstr(hx_error_trace(), "odd_is_refused"), *outer = strstr(hx_error_trace(), "in caller");
    cr_assert(inner != NULL && outer != NULL && inner < outer, "%s", hx_error_trace());
}

Test(status, messages_longer_than_the_buffer_are_cut_not_overrun) {
    char text[5000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    (void)HX_FAIL(HX_ERR_ARG, "%s", text);
    cr_assert_lt(strlen(hx_error_message()), sizeof text);
}

Test(status, a_message_may_quote_the_one_before) {
    (void)HX_FAIL(HX_ERR_IO, "disk");
    (void)HX_FAIL(HX_ERR_ARG, "because: %s", hx_error_message());
    cr_assert(strstr(hx_error_message(), "disk") != NULL, "%s", hx_error_message());
}

Test(status, every_code_has_a_name_and_a_text) {
    for (int s = 0; s < HX_STATUS_COUNT; s++) {
        cr_assert_eq(strncmp(hx_status_name((hx_status)s), "HX_", 3), 0);
        cr_assert_gt(strlen(hx_status_text((hx_status)s)), 4u);
    }
    cr_assert_str_eq(hx_status_name((hx_status)999), "HX_STATUS_?");
    cr_assert_eq(hx_status_exit_code(HX_OK), 0);
}

Test(mem, products_that_overflow_are_refused) {
    size_t n = 0;
    int64_t count = 0;
    int small = 0;
    cr_assert_eq(hx_mem_mul(SIZE_MAX / 2, 3, &n), HX_ERR_OVERFLOW);
    cr_assert_eq(hx_count_mul(INT64_MAX, 2, &count), HX_ERR_OVERFLOW);
    cr_assert_eq(hx_count_mul(-1, 2, &count), HX_ERR_ARG);
    cr_assert_eq(hx_count_to_int(1ll << 31, &small), HX_ERR_OVERFLOW);
    cr_assert_eq(hx_count_mul(3, 5, &count), HX_OK);
    cr_assert_eq(count, 15);
}

Test(mem, an_absurd_size_is_an_error_with_the_size) {
    void *p = NULL;
    cr_assert_eq(hx_mem_alloc((size_t)1 << 61, &p), HX_ERR_MEMORY);
    cr_assert(strstr(hx_error_message(), "2305843009213693952") != NULL, "%s", hx_error_message());
    cr_assert_null(p);
}

Test(mem, growing_keeps_the_contents) {
    int *items = NULL;
    int64_t capacity = 0;
    for (int i = 0; i < 1000; i++) {
        cr_assert_eq(hx_mem_grow((void **)&items, &capacity, i + 1, sizeof *items), HX_OK);
        items[i] = i;
    }
    for (int i = 0; i < 1000; i++) cr_assert_eq(items[i], i);
    hx_mem_free((void **)&items);
    cr_assert_null(items);
}

Test(arena, records_are_zeroed_aligned_and_memory_is_reused) {
    hx_arena *a = NULL;
    cr_assert_eq(hx_arena_create(1000, &a), HX_OK);
    size_t held = 0;
    for (int round = 0; round < 3; round++) {
        for (size_t i = 1; i < 300; i++) {
            unsigned char *p = NULL;
            cr_assert_eq(hx_arena_push(a, i * 7, (void **)&p), HX_OK);
            cr_assert_eq((uintptr_t)p % 16, 0u);
            for (size_t k = 0; k < i * 7; k++) cr_assert_eq(p[k], 0);
            memset(p, 0xff, i * 7);
        }
        if (round == 0) held = hx_arena_bytes(a);
        cr_assert_eq(hx_arena_bytes(a), held, "round %d holds %zu bytes", round, hx_arena_bytes(a));
        hx_arena_reset(a);
    }
    hx_arena_destroy(&a);
    cr_assert_null(a);
}

static void keep(void *self, hx_log_level level, const char *line) {
    (void)level;
    strcpy(self, line);
}

Test(log, lines_below_the_level_are_dropped) {
    char last[256] = "";
    hx_log_set_sink(keep, last, HX_LOG_WARN);
    HX_LOG(HX_LOG_INFO, "quiet");
    cr_assert_str_eq(last, "");
    HX_LOG(HX_LOG_WARN, "n = %d", 5);
    cr_assert_str_eq(last, "n = 5");
}
