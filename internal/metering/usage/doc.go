// Package usage is the arithmetic of metering: from cumulative readings to what was used. It is pure, and integer
// throughout: it knows no clock, no file and no wire.
//
// A Reading is what was seen of one incarnation of a VM at one tick; what could not be seen is UNKNOWN, which is not
// zero. A Meter turns readings, in the order of their ticks, into Totals since the incarnation's baseline. Totals grow
// only, and are joined by the larger of each: so a copy that comes twice, late or not at all changes resolution and
// never a total. Split lays what was used between two ticks over the hours of the calendar, and what it lays sums up
// to what was used, to the nanosecond and the byte.
//
// Time is CLOCK_MONOTONIC of one boot; the wall clock only says where on the calendar an interval lies.
package usage
