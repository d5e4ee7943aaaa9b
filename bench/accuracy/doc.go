// Package accuracy breaks a running Tollgate in every way its quota engine
// promises to survive, under load, and compares afterwards what was charged
// with what must be charged, call by call: `tollgate bench accuracy`.
//
// A trial runs the real program as processes of their own, real Redis servers
// and Sentinels where it needs them, the mock upstream in this process, so that
// it outlives what is killed, and the load generator as the client. Three
// witnesses are heard: the client, which knows what it was answered; the mock,
// which knows what it answered; and the journals, read from the folders of dead
// and living nodes. Against them stand the two figures derived from the
// journals: the units used in the quota store, and the usage rows.
//
//   - A call whose client saw the head of a 2xx answer, or of a stream the last
//     event, must be charged (METER-2, METER-3).
//   - A call the mock answered with 2xx, of which the client saw nothing or a
//     part, may be charged: the journal tells, and the other two must agree.
//   - No other call may be: one the mock never answered with 2xx, or one whose
//     client got the gateway's own error (GWERR-3).
//   - Nothing is charged twice, and never more than was granted.
//
// A trial that cannot run (no redis-server, no right to mount a tmpfs) has
// failed, with the reason. README.md of bench lists the trials.
package accuracy
