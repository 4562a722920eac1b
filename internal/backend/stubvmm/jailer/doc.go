// Package jailer is a stand-in for Firecracker's jailer 1.16.1: the same command line, the same refusals in the same
// words, and the same jail, made with the same calls in the same order (src/jailer/src). It becomes the executable that
// it is given, in place, with everything that follows from that for its pid and its exit; with --new-pid-ns its child
// becomes it, and it ends.
//
// In one thing it does more: a file beside the executable that is named as it is with ".knobs" behind it goes along
// into the jail, where the stand-in for Firecracker looks for it. And in one it does less: --daemonize is refused.
package jailer
