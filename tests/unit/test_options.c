/* Typed options: what a value may look like, and what a wrong one is told. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "core/base/options.h"

#define SAMPLE_OPTIONS(X)                                                                                    \
    X(INT, batch, 32, 1, 1 << 20, "a count")                                                                 \
    X(INT, seed, 1, 0, 9e15, "a large one")                                                                  \
    X(REAL, lr, 1e-3, 0, 10, "a rate")                                                                       \
    X(BOOL, resume, false, 0, 0, "a switch")                                                                 \
    X(TEXT, path, "here", 0, 0, "a text")                                                                    \
    X(CHOICE, norm, 1, "layer|rms|none", 0, "a word")
HX_OPTIONS_STRUCT(sample_config, SAMPLE_OPTIONS);
#define HX_OPTION_OWNER sample_config
static const hx_option table[] = HX_OPTIONS_TABLE(SAMPLE_OPTIONS);
#undef HX_OPTION_OWNER
static const sample_config defaults = HX_OPTIONS_DEFAULT(SAMPLE_OPTIONS);

static hx_status set(sample_config *c, const char *key, const char *value) {
    hx_option_section section = {.prefix = "train", .title = "Sample", .options = table, .n_options = 6, .config = c, .defaults = &defaults};
    return hx_options_set(&section, 1, key, value, "test");
}

static void check_refused(const char *key, const char *value, const char *word) {
    sample_config c = defaults;
    cr_expect_eq(set(&c, key, value), HX_ERR_CONFIG, "%s = '%s' was taken", key, value);
    cr_expect(strstr(hx_error_message(), word) != NULL, "'%s' does not mention '%s'", hx_error_message(), word);
    cr_expect_eq(memcmp(&c, &defaults, sizeof c), 0, "%s = '%s' changed the struct", key, value);
}

Test(options, numbers_take_suffixes_of_thousands_and_of_1024) {
    const struct { const char *text; double value; } cases[] = {{"12", 12}, {"-3.5", -3.5}, {".5", 0.5}, {"3e-4", 3e-4},
        {"+2", 2}, {"64k", 64e3}, {"4M", 4e6}, {"1G", 1e9}, {"2Ki", 2048}, {"4Mi", 4194304}, {"0.5Gi", 536870912}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value = 0;
        cr_expect_eq(hx_parse_real(cases[i].text, &value), HX_OK);
        cr_expect_eq(value, cases[i].value, "%s is %g", cases[i].text, value);
    }
}

Test(options, what_is_no_finite_decimal_number_is_refused) {
    const char *const cases[] = {"", " 1", "1 ", "nan", "inf", "-inf", "0x10", "1e999", "1kk", "1K", "12abc", "--1", "e5", "1,5"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value = 7;
        cr_expect_eq(hx_parse_real(cases[i], &value), HX_ERR_CONFIG, "'%s' was taken as %g", cases[i], value);
        cr_expect_eq(value, 7);
    }
}

Test(options, integers_are_read_exactly_and_checked_against_their_range) {
    sample_config c = defaults;
    cr_expect_eq(set(&c, "train.seed", "9000000000000001"), HX_ERR_CONFIG, "9e15 is the bound");
    cr_expect_eq(set(&c, "train.seed", "8999999999999999"), HX_OK);
    cr_expect_eq(c.seed, 8999999999999999);
    cr_expect_eq(set(&c, "train.batch", "4k"), HX_OK);
    cr_expect_eq(c.batch, 4000);
    check_refused("train.batch", "1.5", "whole number");
    check_refused("train.batch", "0", "expected 1 to 1048576");
    check_refused("train.batch", "99999999999999999999", "whole number");
    check_refused("train.lr", "11", "expected 0 to 10");
}

Test(options, switches_and_choices_take_their_words_only) {
    sample_config c = defaults;
    cr_expect_eq(set(&c, "train.resume", "yes"), HX_OK);
    cr_expect(c.resume);
    cr_expect_eq(set(&c, "train.norm", "none"), HX_OK);
    cr_expect_eq(c.norm, 2);
    check_refused("train.resume", "maybe", "true or false");
    check_refused("train.norm", "la", "layer|rms|none");
    check_refused("train.norm", "", "layer|rms|none");
}

Test(options, texts_must_fit_and_be_utf8_without_control_characters) {
    sample_config c = defaults;
    char longest[HX_OPTION_TEXT], too_long[HX_OPTION_TEXT + 1];
    memset(longest, 'a', sizeof longest - 1), longest[sizeof longest - 1] = '\0';
    memset(too_long, 'a', sizeof too_long - 1), too_long[sizeof too_long - 1] = '\0';
    cr_expect_eq(set(&c, "train.path", longest), HX_OK);
    cr_expect_eq(set(&c, "train.path", "gr\xc3\xbc\xc3\x9f"), HX_OK);
    check_refused("train.path", too_long, "512 bytes");
    check_refused("train.path", "a\nb", "0x0a");
    check_refused("train.path", "\xff", "0xff");
    check_refused("train.path", "\xc0\xaf", "UTF-8");
    check_refused("train.path", "\xe2\x82", "UTF-8");
}

Test(options, an_unknown_name_is_told_the_nearest_one) {
    check_refused("train.bacth", "1", "did you mean train.batch?");
    check_refused("lr", "1", "did you mean train.lr?");
    check_refused("data.lr", "1", "did you mean train.lr?");
    check_refused("train.resum", "1", "did you mean train.resume?");
    sample_config c = defaults;
    cr_expect_eq(set(&c, "something.else.entirely", "1"), HX_ERR_CONFIG);
    cr_expect_null(strstr(hx_error_message(), "did you mean"));
}

Test(options, a_value_shown_reads_back_as_the_same_value) {
    const double reals[] = {0, 0.1, 1e-3, 1.0 / 3, 5e-324, 1.7976931348623157e308, 3.0000000000000004, M_PI};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        sample_config c = {.lr = reals[i]};
        char text[64];
        double back = -1;
        hx_option_format(&table[2], &c, text, sizeof text);
        cr_expect_eq(hx_parse_real(text, &back), HX_OK);
        cr_expect_eq(back, reals[i], "%s", text);
    }
    sample_config c = defaults;
    char text[64];
    hx_option_format(&table[2], &c, text, sizeof text);
    cr_expect_str_eq(text, "0.001");
    hx_option_format(&table[5], &c, text, sizeof text);
    cr_expect_str_eq(text, "rms");
    c.norm = 99;
    hx_option_format(&table[5], &c, text, sizeof text);
    cr_expect_str_eq(text, "?");
}

Test(options, a_list_is_split_at_its_commas) {
    hx_word_list list;
    char text[HX_OPTION_TEXT + 1] = "";
    cr_assert_eq(hx_word_list_of(" tok.* ,,blocks.[01].*,  ", &list), HX_OK);
    cr_assert_eq(list.n, 2);
    cr_expect_str_eq(list.items[0], "tok.*");
    cr_expect_str_eq(list.items[1], "blocks.[01].*");
    cr_assert_eq(hx_word_list_of("a\\,b\\, c ,\\,,\\d\\", &list), HX_OK);
    cr_assert_eq(list.n, 3);
    cr_expect_str_eq(list.items[0], "a,b, c");
    cr_expect_str_eq(list.items[1], ",");
    cr_expect_str_eq(list.items[2], "\\d\\", "a backslash elsewhere is itself");
    cr_assert_eq(hx_word_list_of("", &list), HX_OK);
    cr_expect_eq(list.n, 0);
    for (int i = 0; i < HX_OPTION_TEXT - 1; i++) text[i] = i % 2 ? ',' : 'a'; /* as many words as fit */
    cr_assert_eq(hx_word_list_of(text, &list), HX_OK);
    cr_expect_eq(list.n, HX_OPTION_TEXT / 2);
    text[HX_OPTION_TEXT - 1] = 'a';
    cr_expect_eq(hx_word_list_of(text, &list), HX_ERR_CONFIG);
}
