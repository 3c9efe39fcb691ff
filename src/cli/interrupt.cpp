#include "cli/interrupt.h"

#include <csignal>

namespace weir {
namespace {

// A handler reaches nothing but a global.
volatile std::sig_atomic_t interrupt_seen = 0;

void on_interrupt(int) {
  interrupt_seen = 1;
}

}  // namespace

void catch_interrupts(bool ends_reads) {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  action.sa_flags = ends_reads ? 0 : SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() {
  return interrupt_seen != 0;
}

void clear_interrupt() {
  interrupt_seen = 0;
}

}  // namespace weir
