#include "launch/session_impl.h"

#include <signal.h>
#include <string.h>

/* The one mutable global of launch/: a handler has no other place to leave its message. */
static volatile sig_atomic_t seen_signal;

static const int caught[] = {SIGTERM, SIGUSR1, SIGINT};
enum { N_CAUGHT = sizeof caught / sizeof *caught };
static struct sigaction before[N_CAUGHT];

/* Whoever presses Ctrl-C twice does not want to wait for the checkpoint. */
static void note_signal(int number) {
    if (number == SIGINT && seen_signal == SIGINT) {
        signal(SIGINT, SIG_DFL);
        raise(SIGINT);
        return;
    }
    seen_signal = number;
}

void hx__signals_install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = note_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    seen_signal = 0;
    for (int i = 0; i < N_CAUGHT; i++) sigaction(caught[i], &action, &before[i]);
}

void hx__signals_restore(void) {
    for (int i = 0; i < N_CAUGHT; i++) sigaction(caught[i], &before[i], NULL);
}

int hx__signals_seen(void) { return seen_signal; }
