/* Generations, names, links, and what is kept. */
#include "tests/unit/test_ckpt_fixture.h"
#include "io/ckpt/ckpt_impl.h"

TestSuite(ckpt_folder, .init = fixture_open, .fini = fixture_close);

/* Saves of one incarnation; the last of `steps` is 0. @param best  the step that is the best; 0: none */
static void incarnation(const hx_ckpt_config *c, const int64_t *steps, int64_t best) {
    hx_ckpt *ckpt;
    OK(hx_ckpt_open(comm, folder, c, "", &ckpt));
    for (; *steps; steps++) OK(hx_ckpt_save(ckpt, &(hx_train_state){.step = *steps}, &items, *steps == best));
    hx_ckpt_close(&ckpt);
}
#define STEPS(...) ((const int64_t[]){__VA_ARGS__, 0})

static void touch(const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    cr_assert(f, "%s", path);
    fputs(text, f);
    fclose(f);
}

static void link_is(const char *name, const char *expected) {
    char path[512], target[128] = "";
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_gt(readlink(path, target, sizeof target - 1), 0, "%s is no link", path);
    cr_assert_str_eq(target, expected);
}

static void means(const char *name, const char *expected) {
    char path[512], file[HX_PATH_BYTES], full[512];
    snprintf(path, sizeof path, "%s%s", folder, name);
    snprintf(full, sizeof full, "%s/%s", folder, expected);
    OK(hx_ckpt_resolve(path, file));
    cr_assert_str_eq(file, full);
}

/* All files of the folder, in order: "2:15 1:10* ", the best with a star, those that were left in brackets. */
static const char *listing(void) {
    static char text[512];
    hx_ckpt_files files;
    int n = 0;
    OK(hx_ckpt_list(folder, &files));
    text[0] = 0;
    for (int64_t i = 0; i < files.n; i++) {
        const hx_ckpt_file *f = &files.items[i];
        n += snprintf(text + n, sizeof text - (size_t)n, "%s%lld:%lld%s%s ", f->is_left ? "(" : "", (long long)f->generation, (long long)f->step,
                      f->is_best ? "*" : "", f->is_left ? ")" : "");
    }
    hx_ckpt_files_destroy(&files);
    return text;
}

Test(ckpt_folder, a_folder_means_the_latest_of_its_highest_generation) {
    OK(save_step(folder, 1, false));
    OK(save_step(folder, 2, false));
    means("", "gen-0002/step-00000002.h5");
    means("/gen-0001", "gen-0001/step-00000001.h5");
    means("/gen-0001/step-00000001.h5", "gen-0001/step-00000001.h5");
}

Test(ckpt_folder, a_generation_without_a_whole_checkpoint_does_not_hide_the_one_before) {
    hx_ckpt *ckpt;
    OK(save_step(folder, 1, false));
    OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    hx_ckpt_close(&ckpt);
    touch("gen-0002/step-00000009.h5", "cut short");
    means("", "gen-0001/step-00000001.h5");
    means("/latest", "gen-0001/step-00000001.h5");
}

Test(ckpt_folder, a_dangling_latest_falls_back_to_the_newest_complete_file) {
    char path[512];
    incarnation(&config, STEPS(1, 2, 3), 0);
    snprintf(path, sizeof path, "%s/gen-0001/step-00000003.h5", folder);
    cr_assert_eq(truncate(path, 3000), 0);
    means("", "gen-0001/step-00000002.h5");
    snprintf(path, sizeof path, "%s/gen-0001/latest", folder);
    cr_assert_eq(unlink(path), 0);
    means("", "gen-0001/step-00000002.h5");
}

Test(ckpt_folder, best_and_latest_are_names_that_follow_the_generations) {
    incarnation(&config, STEPS(1, 2), 1);
    means("/best", "gen-0001/step-00000001.h5");
    incarnation(&config, STEPS(3), 0);
    link_is("gen-0002/best", "../gen-0001/step-00000001.h5");
    means("/best", "gen-0001/step-00000001.h5");
    means("/latest", "gen-0002/step-00000003.h5");
    incarnation(&config, STEPS(4), 4);
    link_is("gen-0003/best", "step-00000004.h5");
    means("/best", "gen-0003/step-00000004.h5");
    cr_expect(!exists("best") && !exists("latest"), "a link in the folder could be turned by a ghost");
}

Test(ckpt_folder, files_that_older_versions_left_are_generation_0) {
    char command[1024];
    incarnation(&config, STEPS(10, 20), 10);
    snprintf(command, sizeof command, "cd '%s' && mv gen-0001/* . && rmdir gen-0001", folder);
    cr_assert_eq(system(command), 0);
    means("", "step-00000020.h5");
    means("/best", "step-00000010.h5");
    cr_expect_str_eq(listing(), "0:20 0:10* ");
    const hx_ckpt_config one = {.keep = 1};
    incarnation(&one, STEPS(30), 0);
    link_is("gen-0001/best", "../step-00000010.h5");
    cr_expect_str_eq(listing(), "1:30 0:10* ");
    incarnation(&one, STEPS(40), 40);
    cr_expect_str_eq(listing(), "2:40* 1:30 ");
    incarnation(&one, STEPS(50), 0);
    cr_expect(!exists("latest") && !exists("best") && !exists("gen-0001"), "links of an emptied generation are left");
}

Test(ckpt_folder, a_folder_without_checkpoints_is_told_so) {
    char file[HX_PATH_BYTES], path[512];
    REFUSED(hx_ckpt_resolve(folder, file), HX_ERR_IO, "no complete checkpoint");
    snprintf(path, sizeof path, "%s/absent", folder);
    REFUSED(hx_ckpt_resolve(path, file), HX_ERR_IO, "No such file");
    snprintf(path, sizeof path, "%s/best", folder);
    REFUSED(hx_ckpt_resolve(path, file), HX_ERR_IO, "no generation has a link `best`");
    touch("step-00000007.h5", "garbage");
    REFUSED(hx_ckpt_resolve(folder, file), HX_ERR_IO, "too short");
}

Test(ckpt_folder, the_last_k_and_the_best_are_kept) {
    const hx_ckpt_config two = {.keep = 2};
    incarnation(&two, STEPS(1, 2, 3, 4, 5, 6), 2);
    cr_expect_str_eq(listing(), "1:6 1:5 1:2* ");
    link_is("gen-0001/best", "step-00000002.h5");
}

Test(ckpt_folder, retention_counts_over_generations_and_removes_what_they_leave_empty) {
    const hx_ckpt_config two = {.keep = 2};
    incarnation(&two, STEPS(1, 2), 0);
    incarnation(&two, STEPS(3), 0);
    cr_expect_str_eq(listing(), "2:3 1:2 ");
    incarnation(&two, STEPS(4, 5), 0);
    cr_expect_str_eq(listing(), "3:5 3:4 ");
    cr_expect(!exists("gen-0001") && !exists("gen-0002"));
}

Test(ckpt_folder, multiples_of_keep_every_are_kept_for_ever) {
    const hx_ckpt_config some = {.keep = 1, .keep_every = 10};
    incarnation(&some, STEPS(10, 15, 20, 25), 0);
    incarnation(&some, STEPS(30, 35), 0);
    cr_expect_str_eq(listing(), "2:35 2:30 1:20 1:10 ");
    incarnation(&some, STEPS(30, 36), 0); /* gone back: of a step that was written again the newest counts */
    cr_expect_str_eq(listing(), "3:36 3:30 1:20 1:10 ");
}

Test(ckpt_folder, a_branch_that_was_left_counts_as_older_than_all) {
    const hx_ckpt_config two = {.keep = 2};
    incarnation(&two, STEPS(10, 20, 11, 12), 0);
    cr_expect_str_eq(listing(), "1:12 1:11 ");
    const hx_ckpt_config three = {.keep = 3};
    incarnation(&three, STEPS(20), 0);
    incarnation(&three, STEPS(15), 0); /* resumed from 12 */
    cr_expect_str_eq(listing(), "3:15 1:12 1:11 ");
}

Test(ckpt_folder, what_is_left_is_listed_last) {
    incarnation(&config, STEPS(10, 20), 0);
    incarnation(&config, STEPS(15), 0);
    cr_expect_str_eq(listing(), "2:15 1:10 (1:20) ");
    means("", "gen-0002/step-00000015.h5");
}

Test(ckpt_folder, a_ghost_neither_turns_links_nor_removes_files_of_its_successor) {
    const hx_ckpt_config one = {.keep = 1};
    hx_ckpt *ghost, *next;
    OK(hx_ckpt_open(comm, folder, &one, "", &ghost));
    OK(hx_ckpt_save(ghost, &(hx_train_state){.step = 10}, &items, true));
    OK(hx_ckpt_open(comm, folder, &one, "", &next));
    OK(hx_ckpt_save(next, &(hx_train_state){.step = 11}, &items, false));
    OK(hx_ckpt_save(ghost, &(hx_train_state){.step = 12}, &items, false));
    OK(hx_ckpt_save(ghost, &(hx_train_state){.step = 13}, &items, true));
    means("", "gen-0002/step-00000011.h5");
    means("/best", "gen-0001/step-00000010.h5");
    cr_expect_str_eq(listing(), "2:11 1:10* (1:13) (1:12) ");
    OK(hx_ckpt_save(next, &(hx_train_state){.step = 14}, &items, false));
    cr_expect_str_eq(listing(), "2:14 1:10* ");
    hx_ckpt_close(&ghost);
    hx_ckpt_close(&next);
}

Test(ckpt_folder, two_incarnations_never_share_a_generation) {
    hx_ckpt *a, *b, *c;
    OK(hx_ckpt_open(comm, folder, &config, "", &a));
    OK(hx_ckpt_open(comm, folder, &config, "", &b));
    cr_expect(!exists("gen-0001") && exists("gen-0002"), "an empty generation is left, or the highest is gone");
    cr_expect_eq(hx_ckpt_save(a, &(hx_train_state){.step = 1}, &items, false), HX_ERR_IO, "a ghost has its place taken away");
    OK(hx_ckpt_save(b, &(hx_train_state){.step = 1}, &items, false));
    OK(hx_ckpt_open(comm, folder, &config, "", &c));
    OK(hx_ckpt_save(c, &(hx_train_state){.step = 1}, &items, false));
    cr_expect_str_eq(listing(), "3:1 (2:1) ");
    hx_ckpt_close(&a);
    hx_ckpt_close(&b);
    hx_ckpt_close(&c);
}

Test(ckpt_folder, opening_removes_what_a_killed_save_left) {
    static const char *const names[] = {"gen-0001/.step-00000009.h5.tmp", "gen-0001/.latest.tmp", ".best.tmp", "gen-0001/mine.tmp", ".other.tmp"};
    hx_ckpt *ckpt;
    OK(save_step(folder, 1, false));
    for (int i = 0; i < 5; i++) touch(names[i], "");
    OK(hx_ckpt_open(comm, folder, &config, "", &ckpt));
    hx_ckpt_close(&ckpt);
    cr_assert(!exists(names[0]) && !exists(names[1]) && !exists(names[2]));
    cr_assert(exists(names[3]) && exists(names[4]), "files of others were removed");
}

Test(ckpt_folder, names_that_are_not_ours_are_left_alone) {
    char command[1024];
    const hx_ckpt_config one = {.keep = 1};
    snprintf(command, sizeof command, "cd '%s' && mkdir gen-0000 gen-1 gen-00002 gen-0003x away away/gen-0001 && touch step-1.h5 away/step-00000099.h5 "
             "latest.h5 && mkdir best", folder);
    cr_assert_eq(system(command), 0);
    incarnation(&one, STEPS(1, 2), 0);
    cr_expect_str_eq(listing(), "1:2 ");
    snprintf(command, sizeof command, "cd '%s' && ls -d gen-0000 gen-1 gen-00002 gen-0003x away/gen-0001 step-1.h5 away/step-00000099.h5 latest.h5 "
             "best >/dev/null", folder);
    cr_expect_eq(system(command), 0, "something of others is gone");
}

/* A run whose checkpoints were moved and linked back would else start afresh beside them. */
Test(ckpt_folder, generations_and_files_behind_links_are_refused_and_stay) {
    static const char *const linked[] = {"gen-0001", "gen-0002/step-00000002.h5"};
    char command[1024], file[HX_PATH_BYTES];
    hx_ckpt *ckpt;
    hx_ckpt_files files;
    incarnation(&config, STEPS(1), 1);
    incarnation(&config, STEPS(2), 0);
    for (size_t i = 0; i < sizeof linked / sizeof *linked; i++) {
        snprintf(command, sizeof command, "cd '%s' && mv %s away && ln -s \"$PWD/away\" %s", folder, linked[i], linked[i]);
        cr_assert_eq(system(command), 0);
        cr_expect_eq(hx_ckpt_resolve(folder, file), HX_ERR_IO);
        cr_expect_eq(hx_ckpt_list(folder, &files), HX_ERR_IO);
        cr_expect_eq(hx_ckpt_open(comm, folder, &config, "", &ckpt), HX_ERR_IO);
        cr_expect(strstr(hx_error_message(), strrchr(linked[i], '/') ? "step-00000002.h5" : "gen-0001"), "%s", hx_error_message());
        snprintf(command, sizeof command, "cd '%s' && rm %s && mv away %s", folder, linked[i], linked[i]);
        cr_assert_eq(system(command), 0);
        cr_expect_str_eq(listing(), "2:2 1:1* ");
    }
}

Test(ckpt_folder, links_that_lead_elsewhere_are_not_followed) {
    static const char *const targets[] = {"../../../etc/passwd", "/etc/passwd", "../gen-0001/../step-00000001.h5", "../gen-01/step-00000001.h5",
                                          "..", "../", "gen-0001/step-00000001.h5", "step-1.h5", "../gen-99999999999999999999/step-00000001.h5"};
    char path[512];
    hx_ckpt_file target;
    OK(save_step(folder, 1, true));
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        snprintf(path, sizeof path, "%s/gen-0001/best", folder);
        cr_assert(unlink(path) == 0 && symlink(targets[i], path) == 0);
        cr_expect(!hx__link_read(folder, 1, "best", &target), "%s", targets[i]);
        cr_expect_str_eq(listing(), "1:1 ");
    }
}

Test(ckpt_folder, a_deleted_file_takes_its_links_and_its_empty_generation_along) {
    hx_ckpt_files files;
    incarnation(&config, STEPS(1), 1);
    incarnation(&config, STEPS(2), 0);
    OK(hx_ckpt_list(folder, &files));
    cr_assert(files.n == 2 && files.items[1].is_best && files.items[0].is_latest && files.items[0].is_whole);
    OK(hx_ckpt_delete(folder, &files.items[1]));
    cr_expect(!exists("gen-0001"));
    cr_expect_str_eq(listing(), "2:2 ");
    OK(hx_ckpt_delete(folder, &files.items[0]));
    cr_expect(exists("gen-0002") && !exists("gen-0002/latest"), "the highest stays, for whoever works in it");
    hx_ckpt_files_destroy(&files);
}

Test(ckpt_folder, a_deleted_file_takes_the_links_of_other_generations_along) {
    char path[512], target[64];
    incarnation(&config, STEPS(1, 2), 1);
    incarnation(&config, STEPS(3), 0);
    link_is("gen-0002/best", "../gen-0001/step-00000001.h5");
    OK(hx_ckpt_delete(folder, &(hx_ckpt_file){.generation = 1, .step = 1}));
    snprintf(path, sizeof path, "%s/gen-0002/best", folder);
    cr_assert_eq(readlink(path, target, sizeof target), -1, "a link that leads nowhere is left");
}

Test(ckpt_folder, best_of_one_generation_may_lie_in_another) {
    char path[512], file[HX_PATH_BYTES];
    int format;
    incarnation(&config, STEPS(1), 1);
    incarnation(&config, STEPS(3), 0);
    snprintf(path, sizeof path, "%s/gen-0002/best", folder);
    OK(hx_ckpt_resolve(path, file));
    cr_assert_str_eq(file, path);
    OK(hx__seal_check(file, true, &format));
}

Test(ckpt_folder, behind_the_highest_number_there_is_no_generation, .timeout = 20) {
    hx_ckpt *ckpt;
    char path[512];
    snprintf(path, sizeof path, "%s/gen-9223372036854775807", folder);
    cr_assert_eq(mkdir(path, 0777), 0);
    cr_assert_eq(hx_ckpt_open(comm, folder, &config, "", &ckpt), HX_ERR_IO);
    cr_assert(strstr(hx_error_message(), "no number is left"), "%s", hx_error_message());
}
