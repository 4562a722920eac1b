// Package rust has what the stand-ins for programs written in Rust share: command lines, errors and JSON as those
// programs read and say them. The texts are those of Firecracker 1.16.1 (src/utils/src/arg_parser.rs), of musl, with
// which its releases are built, and of serde_json.
package rust
