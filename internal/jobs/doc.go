// Package jobs runs what is due by the calendar (rating, renewals, reminders,
// expiries) on one process at a time, however many admin roles share the
// database, and in order after a time in which none was up.
//
// What holds:
//
//   - A job has a schedule, which names the instants at which it is due, and a
//     cursor in the database: the last due instant that is done. A job that
//     catches up is run for each instant since, oldest first; one that does not
//     is run once, for the latest.
//   - A job runs at least once for each of these instants. The cursor moves
//     after the run, so a crash between the two runs it again with the same
//     instant: runs must be idempotent by it.
//   - One process at a time runs a job: it holds a lease in the database and
//     renews it while it runs. A process that cannot renew has its run's context
//     cancelled before another may take over, as long as the clocks of the
//     processes differ by less than a third of the lease.
//   - A failing job is tried again with a growing pause and keeps no other job
//     from running. Its cursor stays, so nothing is left out.
//
// Two clocks are told apart. What is due is decided by the business clock,
// which tests and the demo's time machine move; leases and pauses are measured
// by the wall clock, which nobody moves.
package jobs
