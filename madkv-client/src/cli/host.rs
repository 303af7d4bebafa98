//! Words that the host of a command line adds to it: a launcher's words for the processes that it started.

/// Whoever lets the command line run, and understands further words.
pub trait Host: Sync {
    /// Its words.
    fn words(&self) -> &[HostWord];

    /// What can stand after `before`, whose first word is one of its own.
    fn candidates(&self, before: &[&str]) -> Vec<String>;

    /// Carries out a line whose first word is one of its own; returns what to print.
    ///
    /// # Errors
    /// Why it is refused, in one line.
    fn execute(&self, words: &[&str]) -> Result<String, String>;
}

/// A command that the program around the prompt adds.
#[derive(Clone, Copy, Debug)]
pub struct HostWord {
    /// The word.
    pub word: &'static str,
    /// The word with its arguments, and what it does: its line of `help`.
    pub usage: &'static str,
    /// What `help <word>` says besides.
    pub about: &'static str,
}

/// The host's word that a line begins with, if it is one.
pub(crate) fn word_of<'h>(host: Option<&'h dyn Host>, first: &str) -> Option<(&'h dyn Host, HostWord)> {
    let host = host?;
    let word = host.words().iter().find(|word| word.word == first)?;
    Some((host, *word))
}

/// The lines of `help` for a host's words.
pub(crate) fn help(host: Option<&dyn Host>) -> String {
    host.map_or_else(String::new, |host| host.words().iter().map(|word| format!("{}\n", word.usage)).collect())
}
