#include "federation/check_journal.hpp"
#include "federation/faulty_journal.hpp"
#include "offsite/federation/memory_journal.hpp"

#include "support/test.hpp"

namespace journal_test {

TEST_CASE("Journal conformance: in memory") {
  check_journal([] { return offsite::federation::MemoryJournal(); });
}

TEST_CASE("Journal conformance: the simulation's, without faults") {
  check_journal([] { return FaultyJournal(1); });
}

}  // namespace journal_test
