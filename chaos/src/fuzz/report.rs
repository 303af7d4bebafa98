//! The verdict on a run.

use std::fmt;
use std::path::PathBuf;

use crate::fuzz::FuzzOptions;
use crate::fuzz::statistics::Statistics;
use madkv_testkit::history::{History, Outcome, readable};
use madkv_testkit::linearize::{self, Verdict, check, picture};

/// How many violations a report names.
const VIOLATIONS_SHOWN_MAX: usize = 10;

/// All that is to be said about a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whether all was well.
    pub passed: bool,
    /// Whether no client fell far behind the others.
    pub fair: bool,
    /// Its numbers.
    pub statistics: Statistics,
    /// What the checker says.
    pub verdict: Verdict,
    /// What else went wrong: clients that hung or gave malformed answers, too few answers, no retry.
    pub failures: Vec<String>,
    /// Where the history is.
    pub history: PathBuf,
    /// Where the picture is, if there is one.
    pub picture: Option<PathBuf>,
}

impl Report {
    pub(crate) fn judge(
        options: &FuzzOptions,
        history: History,
        statistics: Statistics,
        mut failures: Vec<String>,
    ) -> Report {
        if options.must_retry && statistics.retried == 0 {
            failures.push("no operation ever had to be tried again: nothing crashed that mattered".to_owned());
        }
        let percent = statistics.answered_percent();
        if percent < options.answered_percent_min {
            failures.push(format!("only {percent:.2} % of the operations were answered"));
        }
        if statistics.answered() == 0 {
            failures.push("no operation was answered".to_owned());
        }
        let verdict = check(&history, &linearize::Options { budget: options.budget });
        let picture = draw(&history, &verdict, &options.history, &mut failures);
        let passed = verdict.passed() && failures.is_empty();
        let fair = is_fair(&history, options.clients);
        Report { passed, fair, statistics, verdict, failures, history: options.history.clone(), picture }
    }
}

/// A client that came to less than this share of the mean has been left behind.
const FAIR_SHARE_MIN: f64 = 0.1;

/// Whether none of the clients that were there from the beginning on was left behind. Of one that died there is nothing
/// to be said.
fn is_fair(history: &History, clients: u32) -> bool {
    let mut answered = vec![0_u64; clients as usize];
    let mut successors = false;
    for operation in &history.operations {
        match answered.get_mut(operation.client as usize) {
            Some(count) if matches!(operation.outcome, Outcome::Answered { .. }) => *count += 1,
            Some(_) => {}
            None => successors = true,
        }
    }
    let mean = answered.iter().sum::<u64>() as f64 / answered.len().max(1) as f64;
    successors || answered.iter().all(|count| *count as f64 >= FAIR_SHARE_MIN * mean)
}

/// Draws what is wrong with a history beside its file, if something is.
pub(crate) fn draw(
    history: &History,
    verdict: &Verdict,
    beside: &std::path::Path,
    failures: &mut Vec<String>,
) -> Option<PathBuf> {
    let page = picture(history, verdict)?;
    let path = beside.with_extension("html");
    match std::fs::write(&path, page) {
        Ok(()) => Some(path),
        Err(error) => {
            failures.push(format!("the picture cannot be written to {}: {error}", path.display()));
            None
        }
    }
}

/// What the checker says, for people.
pub(crate) fn describe(verdict: &Verdict, f: &mut impl fmt::Write) -> fmt::Result {
    let Verdict { keys, configurations, violations, undecided } = verdict;
    if verdict.passed() {
        return writeln!(f, "linearizable: {keys} keys, {configurations} configurations looked at");
    }
    for violation in violations.iter().take(VIOLATIONS_SHOWN_MAX) {
        let key = violation.key.as_ref().map(|key| format!("key {}, ", readable(key)));
        writeln!(f, "NOT LINEARIZABLE ({}{}): {}", key.unwrap_or_default(), violation.check, violation.what)?;
        if let Some(evidence) = &violation.evidence {
            writeln!(f, "  the smallest part that shows it has {} operations", evidence.operations.len())?;
        }
    }
    if violations.len() > VIOLATIONS_SHOWN_MAX {
        writeln!(f, "... and {} more", violations.len() - VIOLATIONS_SHOWN_MAX)?;
    }
    for key in undecided {
        writeln!(f, "UNDECIDED: the checker used up its budget on key {}; that is a failure", readable(key))?;
    }
    Ok(())
}

impl fmt::Display for Report {
    /// All but the last line, which is PASSED or FAILED.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.statistics)?;
        let mut text = String::new();
        describe(&self.verdict, &mut text)?;
        f.write_str(&text)?;
        for failure in &self.failures {
            writeln!(f, "failure: {failure}")?;
        }
        writeln!(f, "history: {}", self.history.display())?;
        match &self.picture {
            Some(picture) => writeln!(f, "picture: {}", picture.display()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use madkv_testkit::history::{Action, Answer, Operation};

    fn history(answered: &[u64]) -> History {
        let answered = (0..).zip(answered).flat_map(|(client, count)| (0..*count).map(move |number| (client, number)));
        let operation = |(client, number): (u32, u64)| Operation {
            client,
            action: Action::Get { key: "k".into() },
            call: 2 * number,
            outcome: Outcome::Answered { at: 2 * number + 1, answer: Answer::Value(None) },
        };
        History { operations: answered.map(operation).collect(), ..History::default() }
    }

    #[test]
    fn run_is_fair_unless_a_client_is_left_far_behind() {
        assert!(is_fair(&history(&[100, 90, 120]), 3));
        assert!(is_fair(&history(&[100, 20, 120]), 3));
        assert!(!is_fair(&history(&[100, 3, 120]), 3));
        assert!(!is_fair(&history(&[100, 90]), 3), "one came to nothing");
        assert!(is_fair(&history(&[100, 3, 120, 80]), 3), "one died, and another took its place");
    }
}
