#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/log/jsonl.h"
#include "tests/support/expect.h"

static char path[256];

static void make_file(void) {
    snprintf(path, sizeof path, "%.200s/helix-jsonl-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
}
static void remove_file(void) { unlink(path); }

TestSuite(jsonl, .init = make_file, .fini = remove_file);

static void put(const char *text) {
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

/* Line number i as an object; NULL if it is none. */
static json_t *line(int i) {
    char *text = NULL;
    size_t n = 0;
    FILE *f = fopen(path, "r");
    json_t *object = NULL;
    for (; getline(&text, &n, f) > 0; i--)
        if (i == 0) object = json_loads(text, 0, NULL);
    free(text);
    fclose(f);
    return object;
}

static double real(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

static void log_one(const hx_train_event *event) {
    hx_jsonl *log;
    OK(hx_jsonl_open(path, 1000, &log));
    OK(hx_jsonl_event(log, event, "bits/byte", 1.4426950408889634));
    hx_jsonl_close(&log);
}

Test(jsonl, a_step_is_one_line_with_its_numbers) {
    log_one(&(hx_train_event){.kind = HX_EVENT_STEP, .step = 7, .n_steps = 10, .loss = 0.1, .count = 64, .lr = 3e-4,
                              .grad_norm = 1.0 / 3, .tokens_per_s = 1e5, .memory_bytes = (int64_t)1 << 40});
    json_t *o = line(0);
    cr_assert(o && !line(1));
    cr_assert_str_eq(json_string_value(json_object_get(o, "event")), "step");
    cr_assert_eq(real(o, "step"), 7);
    cr_assert_eq(real(o, "loss"), 0.1, "numbers must survive bit by bit");
    cr_assert_eq(real(o, "grad_norm"), 1.0 / 3);
    cr_assert_float_eq(real(o, "bits/byte"), 0.14426950408889634, 1e-15);
    cr_assert_eq(json_integer_value(json_object_get(o, "memory_bytes")), (int64_t)1 << 40);
    json_decref(o);
}

Test(jsonl, numbers_that_are_not_finite_become_null) {
    log_one(&(hx_train_event){.kind = HX_EVENT_STEP, .loss = NAN, .grad_norm = INFINITY});
    json_t *o = line(0);
    cr_assert(json_is_null(json_object_get(o, "loss")) && json_is_null(json_object_get(o, "grad_norm")));
    cr_assert(json_is_null(json_object_get(o, "bits/byte")));
    json_decref(o);
}

Test(jsonl, an_evaluation_tells_its_metrics_and_a_count_of_weights_its_fraction) {
    hx_metrics *m;
    OK(hx_metrics_create(&(hx_metrics_config){.n_classes = 3}, &m));
    hx_metrics_add_loss(m, 0, 1);
    log_one(&(hx_train_event){.kind = HX_EVENT_EVAL, .step = 7, .count = 2.25, .epoch = 1.5, .metrics = m});
    json_t *o = line(0), *metrics = json_object_get(o, "metrics");
    cr_assert_not_null(metrics);
    cr_expect_eq(real(metrics, "perplexity"), 1);
    cr_expect(json_is_null(json_object_get(metrics, "accuracy")), "of nothing");
    cr_expect_eq(real(o, "count"), 2.25);
    cr_expect_eq(real(o, "epoch"), 1.5);
    json_decref(o);
    hx_metrics_destroy(&m);
}

Test(jsonl, runs_are_appended) {
    for (int i = 0; i < 3; i++) log_one(&(hx_train_event){.kind = HX_EVENT_EVAL, .step = i, .is_best = i == 1});
    for (int i = 0; i < 3; i++) {
        json_t *o = line(i);
        cr_assert_eq(real(o, "step"), i);
        cr_assert_eq(json_is_true(json_object_get(o, "is_best")), i == 1);
        json_decref(o);
    }
}

Test(jsonl, a_line_that_was_cut_short_does_not_spoil_the_next) {
    put("{\"event\":\"step\"}\n{\"event\":\"st");
    log_one(&(hx_train_event){.kind = HX_EVENT_STOP, .text = "done"});
    cr_assert_null(line(1));
    json_t *o = line(2);
    cr_assert(o);
    cr_assert_str_eq(json_string_value(json_object_get(o, "text")), "done");
    json_decref(o);
}

Test(jsonl, texts_of_any_bytes_give_valid_lines) {
    log_one(&(hx_train_event){.kind = HX_EVENT_SKIP, .text = "a \"quote\", a \n newline and \xff\xfe"});
    json_t *o = line(0);
    cr_assert(o && !line(1));
    cr_assert_str_eq(json_string_value(json_object_get(o, "text")), "a \"quote\", a \n newline and ??");
    json_decref(o);
}

Test(jsonl, files_that_cannot_be_written_are_told) {
    hx_jsonl *log;
    cr_assert_eq(hx_jsonl_open("/nowhere/metrics.jsonl", 0, &log), HX_ERR_IO);
    cr_assert(strstr(hx_error_message(), "/nowhere/metrics.jsonl: No such file"));
    OK(hx_jsonl_open("/dev/full", 0, &log));
    cr_assert_eq(hx_jsonl_event(log, &(hx_train_event){.kind = HX_EVENT_STEP}, NULL, 0), HX_ERR_IO);
    cr_assert(strstr(hx_error_message(), "No space left"));
    hx_jsonl_close(&log);
}

Test(jsonl, a_full_disk_costs_one_line_and_not_the_next) {
    hx_jsonl *log;
    struct rlimit limit;
    const hx_train_event event = {.kind = HX_EVENT_STEP, .step = 7, .n_steps = 10};
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, SIG_IGN);
    OK(hx_jsonl_open(path, 1000, &log));
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 20, .rlim_max = limit.rlim_max}), 0);
    cr_assert_eq(hx_jsonl_event(log, &event, NULL, 0), HX_ERR_IO);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    OK(hx_jsonl_event(log, &event, NULL, 0));
    hx_jsonl_close(&log);
    json_t *cut = line(0), *whole = line(1);
    cr_assert_null(cut);
    cr_assert_not_null(whole);
    cr_assert_eq(json_integer_value(json_object_get(whole, "step")), 7);
    json_decref(whole);
}

Test(jsonl, a_resumed_run_drops_what_came_behind_its_checkpoint) {
    hx_jsonl *log;
    put("{\"event\":\"step\",\"step\":1}\nno event\n{\"event\":\"step\",\"step\":2}\n{\"event\":\"step\",\"step\":3}\n"
        "{\"event\":\"save_end\",\"step\":2}\nno event\n{\"event\":\"eval\",\"step\":4}\n{\"event\":\"st");
    OK(hx_jsonl_open(path, 2, &log));
    OK(hx_jsonl_event(log, &(hx_train_event){.kind = HX_EVENT_STEP, .step = 3, .loss = 0.5}, NULL, 0));
    hx_jsonl_close(&log);
    json_t *before = line(2), *end = line(3), *after = line(4);
    cr_expect_null(line(1));
    cr_expect_eq(real(before, "step"), 2);
    cr_expect_str_eq(json_string_value(json_object_get(end, "event")), "save_end", "of a save that the run goes on from");
    cr_expect(real(after, "step") == 3 && real(after, "loss") == 0.5);
    cr_expect_null(line(5));
    json_decref(before);
    json_decref(end);
    json_decref(after);
    OK(hx_jsonl_open(path, 0, &log)); /* afresh */
    hx_jsonl_close(&log);
    cr_expect_null(line(0));
}
