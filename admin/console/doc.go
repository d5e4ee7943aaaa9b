// Package console is the browser side of the admin role, under /console: pages
// rendered on the server, which work without script and refresh by themselves
// with it.
//
// Whatever it shows or does, it asks of the admin API's operations within the
// process (admin.Server.Call), as the user who signed in. So roles, policies,
// validation, repeatability and audit are those of the API, and nothing can be
// done here that a program cannot do. Only what belongs to a session itself
// (signing in, password, one-time codes, the list of sessions) is asked of the
// server's own methods.
//
// Security: nothing is inline, so that the content security policy allows this
// origin only; cross-origin posts are refused by http.CrossOriginProtection;
// the session's cookie is out of reach for scripts; secrets are shown on the
// answer to the post that made or revealed them and in no other page.
//
// static/htmx-4.0.1.min.js is dist/htmx.min.js of the npm package htmx.org
// 4.0.1, unchanged; a test holds its hash.
package console
