package results

import (
	"bufio"
	"io"
	"regexp"
	"strings"
)

var (
	runLine     = regexp.MustCompile(`^=== (?:RUN|NAME|CONT)\s+(\S+)`)
	verdictLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)
	logLine     = regexp.MustCompile(`^\s+\S+\.go:[0-9]+: (.*)$`)
	reportLine  = regexp.MustCompile(`conformance of TestConformance(?:/(\S+))?: VMM (.*); host (.*); date (\S+)$`)
)

// test is the name of the test that every backend runs the suite in.
const test = "TestConformance"

// Parse reads what `go test -v` said of a backend's package. It leaves out kinds whose suite did not come to its end: they
// say neither when nor on what they ran.
func Parse(in io.Reader, backend string, lab bool, sentences []string) (Record, error) {
	p := parser{known: map[string]string{}, results: map[string]map[string]Result{}, said: map[string]string{}}
	for _, s := range sentences {
		p.known[strings.ReplaceAll(s, " ", "_")] = s
	}
	record := Record{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.line(lines.Text())
	}
	for kind, report := range p.reports {
		run := &Run{VMM: report[2], Host: report[3], Results: map[string]Result{}}
		for sentence, result := range p.results[kind] {
			result.Date = report[4]
			run.Results[sentence] = result
		}
		record[Column{Backend: backend, Kind: kind, Lab: lab}] = run
	}
	return record, lines.Err()
}

type parser struct {
	known   map[string]string // sentences by the names of their tests
	current string            // test
	said    map[string]string // what each test logged last
	results map[string]map[string]Result
	reports map[string][]string // by kind
}

func (p *parser) line(line string) {
	if m := reportLine.FindStringSubmatch(line); m != nil {
		if p.reports == nil {
			p.reports = map[string][]string{}
		}
		p.reports[m[1]] = m
		return
	}
	if m := runLine.FindStringSubmatch(line); m != nil {
		p.current = m[1]
		return
	}
	if m := verdictLine.FindStringSubmatch(line); m != nil {
		p.verdict(m[1], m[2])
		return
	}
	if m := logLine.FindStringSubmatch(line); m != nil && !strings.Contains(m[1], "level=") {
		if kind, sentence, _ := p.place(p.current); sentence != "" {
			p.said[kind+"/"+sentence] = m[1]
		}
	}
}

// place tells of which kind and sentence the test called name is; whole says that it is no part of the sentence.
func (p *parser) place(name string) (kind, sentence string, whole bool) {
	parts := strings.Split(name, "/")
	if parts[0] != test {
		return "", "", false
	}
	for i := 1; i < min(len(parts), 3); i++ {
		if s, ok := p.known[parts[i]]; ok {
			return strings.Join(parts[1:i], "/"), s, len(parts) == i+1
		}
	}
	return "", "", false
}

func (p *parser) verdict(word, name string) {
	kind, sentence, whole := p.place(name)
	if !whole {
		return
	}
	if p.results[kind] == nil {
		p.results[kind] = map[string]Result{}
	}
	why := p.said[kind+"/"+sentence]
	if why == "" {
		why = "it did not say why"
	}
	p.results[kind][sentence] = map[string]Result{
		"PASS": {Verdict: Yes}, "FAIL": {Verdict: No, Why: why}, "SKIP": {Verdict: Skip, Why: why},
	}[word]
}
