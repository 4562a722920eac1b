// Package arch has tests about the code itself: which package may know which, who starts goroutines, what every
// file keeps to, and that the generated parts of the documentation are fresh. Its tables are the rules; a finding
// says the reason of its rule.
package arch
