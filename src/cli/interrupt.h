// Ctrl-C as a flag, for commands that end in order.
#pragma once

namespace weir {

// From here on SIGINT sets the flag instead of ending the program. `ends_reads`: a read that waits returns, so that a
// Ctrl-C while typing ends the line and with it the command.
void catch_interrupts(bool ends_reads);

// Whether one came since the start or the last clear_interrupt().
bool interrupted();
void clear_interrupt();

}  // namespace weir
