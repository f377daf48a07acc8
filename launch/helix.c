/* The `helix` program: finds the command, runs it, and turns its failure into one message and an exit code. */
#define _GNU_SOURCE
#include "launch/helix.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "launch/cli.h"

static void print_log(void *self, hx_log_level level, const char *line) {
    (void)self;
    static const char *const names[] = {"debug", "note", "warning", "error"};
    fprintf(stderr, "helix: %s: %s\n", names[level], line);
}

static bool wants_help(int argc, char *const *argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

/* One rank speaks. Before MPI is up the ranks of a host cannot ask each other who that is: the first one speaks at
 * once, and the others wait long enough for the launcher to end them when it leaves with a failure. */
static void report(const hx_session *session, hx_status status) {
    int local_rank, local_size;
    hx_comm_local(&local_rank, &local_size);
    if (status == HX_ERR_REMOTE && session) return;
    if (!session && local_rank > 0) nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    fprintf(stderr, "helix: %s%s\n", hx_error_message(),
            status == HX_ERR_INTERRUPTED ? "; the checkpoint is written, go on with --resume" : "");
    if (getenv("HELIX_TEST_TRACE")) fprintf(stderr, "%s", hx_error_trace());
}

/* A file opened while 0, 1 or 2 is closed would get that number, and with it whatever is printed: into a checkpoint,
 * for instance. And a reader of the output that leaves early must not kill a training run. */
static void guard_standard_streams(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) < 0) _exit(hx_status_exit_code(HX_ERR_IO));
    signal(SIGPIPE, SIG_IGN);
}

/* What was printed went through a buffer: only now is it known whether it arrived. */
static hx_status check_output(void) {
    bool is_lost = ferror(stdout) != 0;
    if (fflush(stdout) != 0 || is_lost) return HX_FAIL(HX_ERR_IO, "standard output could not be written");
    return HX_OK;
}

static int run_command(const hx_command *command, int argc, char *const *argv) {
    hx_cli cli = {.config = HX_CONFIG_DEFAULT, .own = HX_OPTIONS_DEFAULT(HX_CLI_OPTIONS)};
    hx_session *session = NULL;
    hx_status status = command->run(&cli, argc, argv, &session);
    hx_status output = status == HX_OK ? check_output() : HX_OK;
    if (output != HX_OK && command->output_is_log)
        fprintf(stderr, "helix: warning: %s; the job itself went well\n", hx_error_message());
    else if (output != HX_OK)
        status = output;
    if (status != HX_OK) report(session, status);
    int exit_code = status == HX_OK ? cli.exit_code : hx__session_exit_code(session, status);
    hx_session_close(&session);
    hx_mem_free((void **)&cli.words.items);
    hx_mem_free((void **)&cli.own.prompt);
    return exit_code;
}

static int refuse(void) {
    fprintf(stderr, "helix: %s\n", hx_error_message());
    return hx_status_exit_code(HX_ERR_CONFIG);
}

/* `helix help`, `helix help COMMAND`, `helix COMMAND --help`; a command with verbs has a page of its own. */
static int help(int argc, char *const *argv) {
    const hx_command *command = argc > 0 && argv[0][0] != '-' ? hx_command_find(argv[0]) : NULL;
    int n_used;
    const bool is_list = command && command->verbs && (argc == 1 || argv[1][0] == '-');
    if (argc > 0 && argv[0][0] != '-' && !is_list && hx_command_read(argc, argv, &command, &n_used) != HX_OK) return refuse();
    hx_help_print(command);
    return 0;
}

int main(int argc, char **argv) {
    static const char *const words_for_help[] = {"help", "--help", "-h"};
    const hx_command *command;
    int n_used;
    guard_standard_streams();
    H5dont_atexit(); /* every file is closed by then; one whose close failed, a damaged history, would crash its clean-up */
    hx_log_set_sink(print_log, NULL, HX_LOG_WARN);
    if (argc < 2) {
        hx_help_print(NULL);
        return hx_status_exit_code(HX_ERR_CONFIG);
    }
    for (size_t i = 0; i < sizeof words_for_help / sizeof *words_for_help; i++)
        if (strcmp(argv[1], words_for_help[i]) == 0) return help(argc - 2, argv + 2);
    if (wants_help(argc - 1, argv + 1)) return help(argc - 1, argv + 1);
    if (strcmp(argv[1], "--version") == 0) argv[1] = "version";
    if (hx_command_read(argc - 1, argv + 1, &command, &n_used) != HX_OK) return refuse();
    return run_command(command, argc - 1 - n_used, argv + 1 + n_used);
}
