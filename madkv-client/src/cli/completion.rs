//! What the Tab key adds to a line of the prompt: words, groups and replicas; and which word an unknown one is like.

use madkv_proto::settings::DEFINITIONS;
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::cli::command::{COMMAND_WORDS, LINE_WORDS};
use crate::cli::host::{Host, word_of};

/// A group's name, and how many replicas it has.
pub(crate) type GroupSize = (String, usize);

/// Completes lines. Groups are asked for when the first one is wanted.
pub(crate) struct Completion<'h, G> {
    groups: G,
    host: Option<&'h dyn Host>,
}

impl<'h, G: Fn() -> Vec<GroupSize>> Completion<'h, G> {
    pub(crate) fn new(groups: G, host: Option<&'h dyn Host>) -> Completion<'h, G> {
        Completion { groups, host }
    }

    /// What can stand where `partial` stands, after the words `before`.
    fn candidates(&self, before: &[&str], partial: &str) -> Vec<String> {
        let words: Vec<String> = match before {
            [] | ["help"] => first_words(self.host).map(str::to_owned).collect(),
            ["transfer" | "readmit"] => (self.groups)().into_iter().map(|(name, _)| name).collect(),
            ["transfer" | "readmit", group] => {
                let size = (self.groups)().into_iter().find(|(name, _)| name == group).map_or(0, |(_, size)| size);
                (0..size).map(|replica| replica.to_string()).collect()
            }
            ["why"] => ["PUT", "SWAP", "DELETE"].map(str::to_owned).to_vec(),
            ["get" | "set"] => DEFINITIONS.iter().map(|definition| definition.name.to_owned()).collect(),
            ["status"] => ["--json", "--slow"].map(str::to_owned).to_vec(),
            ["events"] | ["status", "--slow"] | ["where" | "get", _] | ["set", _, _] => vec!["--json".to_owned()],
            [first, ..] => word_of(self.host, first).map_or_else(Vec::new, |(host, _)| host.candidates(before)),
        };
        let (exact, others): (Vec<_>, Vec<_>) = words.into_iter().partition(|word| word.starts_with(partial));
        if !exact.is_empty() {
            return exact;
        }
        // Keywords are case-sensitive; whoever looks for one need not know that.
        let partial = partial.to_lowercase();
        others.into_iter().filter(|word| word.to_lowercase().starts_with(&partial)).collect()
    }
}

impl<G: Fn() -> Vec<GroupSize>> Completer for Completion<'_, G> {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        let start = typed.rfind([' ', '\t']).map_or(0, |separator| separator + 1);
        let before: Vec<&str> = typed[..start].split_whitespace().collect();
        let mut candidates = self.candidates(&before, &typed[start..]);
        if let [only] = &mut candidates[..] {
            only.push(' ');
        }
        Ok((start, candidates))
    }
}

impl<G: Fn() -> Vec<GroupSize>> Helper for Completion<'_, G> {}
impl<G: Fn() -> Vec<GroupSize>> Highlighter for Completion<'_, G> {}
impl<G: Fn() -> Vec<GroupSize>> Validator for Completion<'_, G> {}
impl<G: Fn() -> Vec<GroupSize>> Hinter for Completion<'_, G> {
    type Hint = String;
}

fn first_words(host: Option<&dyn Host>) -> impl Iterator<Item = &'static str> {
    let more = host.into_iter().flat_map(|host| host.words().iter().map(|word| word.word));
    LINE_WORDS.into_iter().chain(COMMAND_WORDS).chain(more)
}

/// The first word of a line that was probably meant by `unknown`, if it is like one.
pub(crate) fn similar(unknown: &str, host: Option<&dyn Host>) -> Option<&'static str> {
    let unknown = unknown.to_lowercase();
    let scored = first_words(host).map(|word| (strsim::damerau_levenshtein(&unknown, &word.to_lowercase()), word));
    // One letter in three may be wrong: SCAN is not like STOP.
    scored.filter(|(distance, word)| *distance <= word.len() / 3).min().map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use rustyline::history::MemHistory;

    use super::*;

    fn complete(line: &str) -> (usize, Vec<String>) {
        let history = MemHistory::new();
        let groups = || vec![("m".to_owned(), 1), ("s0".to_owned(), 3), ("s1".to_owned(), 3)];
        Completion::new(groups, None).complete(line, line.len(), &Context::new(&history)).unwrap()
    }

    #[test]
    fn complete_words_groups_replicas_by_their_place() {
        assert_eq!(complete("tra"), (0, vec!["transfer ".to_owned()]));
        assert_eq!(complete("sw"), (0, vec!["SWAP ".to_owned()]));
        assert_eq!(complete("S"), (0, ["SWAP", "SCAN", "STOP"].map(str::to_owned).to_vec()));
        assert_eq!(complete("").1.len(), LINE_WORDS.len() + COMMAND_WORDS.len());
        assert_eq!(complete("help tr"), (5, vec!["transfer ".to_owned()]));
        assert_eq!(complete("readmit "), (8, ["m", "s0", "s1"].map(str::to_owned).to_vec()));
        assert_eq!(complete("transfer  s1"), (10, vec!["s1 ".to_owned()]));
        assert_eq!(complete("transfer s0 "), (12, ["0", "1", "2"].map(str::to_owned).to_vec()));
        assert_eq!(complete("transfer s9 "), (12, vec![]));
        assert_eq!(complete("status -"), (7, ["--json", "--slow"].map(str::to_owned).to_vec()));
        assert_eq!(complete("events -"), (7, vec!["--json ".to_owned()]));
        assert_eq!(complete("set sn"), (4, vec!["snapshot_freq ".to_owned()]));
        assert_eq!(complete("PUT k"), (4, vec![]));
    }

    #[test]
    fn similar_a_slip_finds_its_word_and_another_word_none() {
        for (unknown, meant) in
            [("statsu", "status"), ("GTE", "GET"), ("putt", "PUT"), ("tansfer", "transfer"), ("DELTE", "DELETE")]
        {
            assert_eq!(similar(unknown, None), Some(meant), "{unknown}");
        }
        for unknown in ["dance", "x", "ls", "keys", ""] {
            assert_eq!(similar(unknown, None), None, "{unknown}");
        }
    }
}
