/* Configuration of a run: files, environment, arguments, in that order. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "launch/compose.h"
#include "launch/config_impl.h"
#include "tests/support/expect.h"

static const hx_config defaults = HX_CONFIG_DEFAULT;

static hx_status parse(hx_config *c, const char *text) { return hx_config_parse(c, text, strlen(text), "run.yaml"); }

static void check_refused(const char *text, const char *words) {
    hx_config c = defaults;
    cr_expect_eq(parse(&c, text), HX_ERR_CONFIG, "taken: %s", text);
    cr_expect(strstr(hx_error_message(), words) != NULL, "'%s' does not say '%s'", hx_error_message(), words);
    cr_expect_eq(memcmp(&c, &defaults, sizeof c), 0, "a refused file changed the configuration: %s", text);
}

static hx_status read_args(hx_config *c, const char *yaml, int *n_used, int argc, ...) {
    char *argv[16];
    va_list args;
    va_start(args, argc);
    for (int i = 0; i < argc; i++) argv[i] = va_arg(args, char *);
    va_end(args);
    return hx_config_read(c, yaml, argc, argv, n_used);
}

static void write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    cr_assert(f);
    fputs(text, f);
    fclose(f);
}

Test(config, yaml_sets_sections_and_plain_options) {
    hx_config c = defaults;
    cr_assert_eq(parse(&c, "out: runs/x   # a comment\nresume: true\nmodel:\n  dim: 64\n  norm: rmsnorm\ntrain: {batch: 8, seed: 7}\n"), HX_OK);
    cr_expect_str_eq(c.run.out, "runs/x");
    cr_expect(c.run.resume);
    cr_expect_eq(c.model.dim, 64);
    cr_expect_eq(c.model.norm, 1);
    cr_expect_eq(c.train.batch, 8);
    cr_expect_eq(c.train.seed, 7);
    cr_expect_eq(parse(&c, ""), HX_OK, "an empty file says nothing");
    cr_expect_eq(parse(&c, "# nothing\n"), HX_OK);
    cr_expect_eq(parse(&c, "model.dim: 32\n"), HX_OK, "dotted names work too");
    cr_expect_eq(c.model.dim, 32);
}

Test(config, what_yaml_must_not_contain_is_refused_with_line_and_column) {
    check_refused("model:\n\tdim: 3\n", "run.yaml:2:1: a tab");
    check_refused("model:\n  dim: 3\n  dim: 4\n", "run.yaml:3:3: model.dim was given before, in line 2");
    check_refused("model:\n  dim: 3\nmodel:\n  heads: 3\n", "section model was given before, in line 1");
    check_refused("model.dim: 3\nmodel:\n  dim: 4\n", "was given before, in line 1");
    check_refused("out: &a x\n", "run.yaml:1:6: anchors");
    check_refused("out: *a\n", "run.yaml:1:6: ");
    check_refused("out: !!str x\n", "tags");
    check_refused("out: [a, b]\n", "a list");
    check_refused("- a\n", "a list");
    check_refused("just words\n", "name: value");
    check_refused("model:\n  dim:\n    deep: 1\n", "expected a value");
    check_refused("out: a\n---\nout: b\n", "second document");
    check_refused("out: \"unfinished\n", "run.yaml:");
    check_refused("out: \"a\\0b\"\n", "zero byte");
    check_refused("? [a]\n: b\n", "a list");
    check_refused("nodel:\n  dim: 3\n", "no section nodel");
    check_refused("model:\n  dmi: 3\n", "run.yaml:2:3): there is no such option; did you mean model.dim?");
    check_refused("train:\n  batch: many\n", "train.batch = 'many' (run.yaml:2:3)");
}

Test(config, a_written_configuration_reads_back_as_itself) {
    hx_config c = defaults, back = defaults;
    c.optim.lr = 1.0 / 3;
    c.optim.eps = 1e-300;
    c.train.seed = 8999999999999999;
    c.run.resume = true;
    c.model.activation = 2;
    snprintf(c.run.out, sizeof c.run.out, "%s", "a \"quoted\" \\ path: # yes \xc3\xbc \xc2\x85 \xef\xbb\xbf \xf0\x9f\x98\x80");
    snprintf(c.data.path, sizeof c.data.path, "%s", "123");
    char *text = NULL, *again = NULL;
    cr_assert_eq(hx_config_text(&c, &text), HX_OK);
    cr_assert_eq(parse(&back, text), HX_OK, "%s", hx_error_message());
    cr_expect_str_eq(back.run.out, c.run.out);
    cr_expect_str_eq(back.data.path, "123");
    cr_expect_eq(back.optim.lr, c.optim.lr);
    cr_expect_eq(back.optim.eps, c.optim.eps);
    cr_expect_eq(back.train.seed, c.train.seed);
    cr_assert_eq(hx_config_text(&back, &again), HX_OK);
    cr_expect_str_eq(text, again);
    hx_mem_free((void **)&text);
    hx_mem_free((void **)&again);
}

Test(config, a_struct_that_no_file_could_say_is_not_written) {
    hx_config c = defaults;
    char *text = NULL;
    c.train.batch = -1;
    cr_expect_eq(hx_config_text(&c, &text), HX_ERR_CONFIG);
    cr_expect_null(text);
}

Test(config, arguments_override_the_environment_which_overrides_the_file) {
    hx_config c = defaults;
    int n;
    write_file("/tmp/helix_test_config.yaml", "train:\n  batch: 1\n  steps: 1\n  seed: 1\n");
    setenv("HELIX_TRAIN_STEPS", "2", 1);
    setenv("HELIX_TRAIN_SEED", "2", 1);
    cr_assert_eq(read_args(&c, NULL, &n, 3, "--train.seed=3", "--config", "/tmp/helix_test_config.yaml"), HX_OK, "%s", hx_error_message());
    cr_expect_eq(c.train.batch, 1);
    cr_expect_eq(c.train.steps, 2);
    cr_expect_eq(c.train.seed, 3);
    cr_expect_eq(n, 3);
    unlink("/tmp/helix_test_config.yaml");
}

Test(config, arguments_take_all_their_forms_and_stop_at_the_first_word) {
    hx_config c = defaults;
    int n;
    cr_assert_eq(read_args(&c, NULL, &n, 7, "--train.lr=1", "x", "", "", "", "", ""), HX_ERR_CONFIG, "lr is in optim");
    cr_assert_eq(read_args(&c, NULL, &n, 7, "--resume", "--optim.lr", "0.5", "--train.log-every=3", "--resume", "false", "word"), HX_OK, "%s", hx_error_message());
    cr_expect_eq(n, 6);
    cr_expect_not(c.run.resume);
    cr_expect_eq(c.optim.lr, 0.5);
    cr_expect_eq(c.train.log_every, 3);
    cr_assert_eq(read_args(&c, NULL, &n, 2, "--", "--resume"), HX_OK);
    cr_expect_eq(n, 1);
}

Test(config, profile_may_stand_alone_or_before_a_number) {
    hx_config c = defaults;
    int n;
    OK(read_args(&c, NULL, &n, 3, "--profile", "--resume", "word"));
    cr_expect_eq(n, 2);
    cr_expect_eq(c.run.profile, 10);
    OK(read_args(&c, NULL, &n, 2, "--profile", "word"));
    cr_expect_eq(n, 1);
    OK(read_args(&c, NULL, &n, 2, "--profile", "20"));
    cr_expect_eq(n, 2);
    cr_expect_eq(c.run.profile, 20);
    OK(read_args(&c, NULL, &n, 1, "--profile=0"));
    cr_expect_eq(c.run.profile, 0);
    OK(parse(&c, "profile: 3\n"));
    cr_expect_eq(c.run.profile, 3);
    check_refused("profile: true\n", "expected a whole number");
    check_refused("profile: -1\n", "expected 0 to 1000");
    check_refused("profile: 1001\n", "expected 0 to 1000");
}

Test(config, an_option_without_its_value_is_refused) {
    hx_config c = defaults;
    cr_expect_eq(read_args(&c, NULL, NULL, 1, "--train.batch"), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "expected a value"));
    cr_expect_eq(read_args(&c, NULL, NULL, 2, "--train.batch", "--resume"), HX_ERR_CONFIG);
    cr_expect_eq(read_args(&c, NULL, NULL, 1, "--=3"), HX_ERR_CONFIG);
    cr_expect_eq(read_args(&c, NULL, NULL, 1, "--trian.batch=3"), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "did you mean train.batch?"));
}

Test(config, a_misspelt_variable_is_refused_with_the_right_one) {
    hx_config c = defaults;
    setenv("HELIX_TRAIN_BACTH", "3", 1);
    cr_expect_eq(read_args(&c, NULL, NULL, 0), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "did you mean HELIX_TRAIN_BATCH?"), "%s", hx_error_message());
    unsetenv("HELIX_TRAIN_BACTH");
    setenv("HELIX_TEST_ANYTHING", "3", 1);
    setenv("HELIX_STREAM", "async", 1);
    cr_expect_eq(read_args(&c, NULL, NULL, 0), HX_OK, "%s", hx_error_message());
}

Test(config, files_that_are_no_regular_small_file_are_refused_without_waiting) {
    hx_config c = defaults;
    const char *fifo = "/tmp/helix_test_config.fifo";
    unlink(fifo);
    cr_assert_eq(mkfifo(fifo, 0600), 0);
    cr_expect_eq(read_args(&c, fifo, NULL, 0), HX_ERR_IO);
    unlink(fifo);
    cr_expect_eq(read_args(&c, "/tmp", NULL, 0), HX_ERR_IO);
    cr_expect_eq(read_args(&c, "/dev/zero", NULL, 0), HX_ERR_IO);
    cr_expect_eq(read_args(&c, "/nonexistent.yaml", NULL, 0), HX_ERR_IO);
}

Test(config, the_first_difference_between_two_models_is_named_with_both_values) {
    hx_config a = defaults, b = defaults;
    b.train.batch = 1;
    cr_expect_eq(hx__config_same_model(&a, &b, "step.h5"), HX_OK, "only the model counts");
    b.model.layers = 9;
    cr_expect_eq(hx__config_same_model(&a, &b, "step.h5"), HX_ERR_MISMATCH);
    cr_expect(strstr(hx_error_message(), "model.layers = 4") && strstr(hx_error_message(), "model.layers = 9"), "%s", hx_error_message());
}
