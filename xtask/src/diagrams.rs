//! Sequence diagrams of documents, made from the traces of golden scripts: what they show has happened.
//!
//! A document says `<!-- diagram FILE -->` and has a block of Mermaid below it. The block is the first write of the
//! script, from the command that proposes it up to the next proposal.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

/// The documents that have diagrams, from the root of the repository.
const DOCUMENTS: [&str; 1] = ["docs/PROTOCOLS.md"];
/// What stands above a diagram.
const MARK: &str = "<!-- diagram ";
/// What it begins and ends with.
const FENCES: (&str, &str) = ("```mermaid\n", "```\n");
/// Who proposes.
const CLIENT: &str = "client";

/// Writes the diagrams of all documents again. Returns the documents that had others.
///
/// # Errors
/// If a document or a script cannot be read or written, or a mark has no diagram below it.
pub fn refresh(root: &Path) -> io::Result<Vec<&'static str>> {
    let mut changed = Vec::new();
    for document in DOCUMENTS {
        let path = root.join(document);
        let text = fs::read_to_string(&path)?;
        let fresh = with_diagrams(&text, |script| fs::read_to_string(root.join(script)))?;
        if fresh != text {
            fs::write(&path, fresh)?;
            changed.push(document);
        }
    }
    Ok(changed)
}

/// The documents whose diagrams are not those of the scripts as they are.
///
/// # Errors
/// As [`refresh`].
pub fn stale(root: &Path) -> io::Result<Vec<&'static str>> {
    let mut stale = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document))?;
        if with_diagrams(&text, |script| fs::read_to_string(root.join(script)))? != text {
            stale.push(document);
        }
    }
    Ok(stale)
}

fn with_diagrams(text: &str, read: impl Fn(&str) -> io::Result<String>) -> io::Result<String> {
    let malformed = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut fresh = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(MARK) {
        let (script, after) =
            after.split_once(" -->\n").ok_or_else(|| malformed("a mark without an end".to_owned()))?;
        let no_block = || malformed(format!("no diagram below the mark of {script}"));
        let after = after.strip_prefix(FENCES.0).ok_or_else(no_block)?;
        let (_, after) = after.split_once(FENCES.1).ok_or_else(no_block)?;
        let diagram = diagram(&read(script)?).ok_or_else(|| malformed(format!("{script} proposes nothing")))?;
        let _ = write!(fresh, "{before}{MARK}{script} -->\n{}{diagram}{}", FENCES.0, FENCES.1);
        rest = after;
    }
    fresh += rest;
    Ok(fresh)
}

/// The first write of a script. `None` if it proposes nothing.
fn diagram(script: &str) -> Option<String> {
    let mut lines = script.lines().skip_while(|line| !line.starts_with("> propose "));
    let mut words = lines.next()?.split(' ').skip(2);
    let (first, command) = (words.next()?, words.next()?);
    let members = members(script);
    let mut diagram = format!("sequenceDiagram\n    participant {CLIENT}\n");
    for member in &members {
        let _ = writeln!(diagram, "    participant {member}");
    }
    let _ = writeln!(diagram, "    {CLIENT}->>{first}: {command}");
    // Whose step it is.
    let mut member = first;
    for line in lines.take_while(|line| !line.starts_with("> propose ")) {
        if let Some((to, (from, what))) =
            line.split_once(" hears from ").and_then(|(to, rest)| Some((to, rest.split_once(": ")?)))
        {
            member = to;
            let _ = writeln!(diagram, "    {from}->>{to}: {}", message(what));
        } else if let Some((of, _)) = line.split_once("'s disk has written ") {
            member = of;
            let _ = writeln!(diagram, "    Note over {of}: its disk has {command}");
        } else if line.trim_start().starts_with("commits ") && line.ends_with(&format!(" {command}")) {
            let _ = writeln!(diagram, "    Note over {member}: {command} is committed");
        }
    }
    Some(diagram)
}

/// Who has a state in the script, in order.
fn members(script: &str) -> Vec<&str> {
    let mut members: Vec<&str> =
        script.lines().filter_map(|line| line.split_once(" = ")).map(|(member, _)| member).collect();
    members.retain(|member| member.len() == 1);
    members.sort_unstable();
    members.dedup();
    members
}

/// A message without its epoch or term, and without what it carries besides its kind: diagrams are for people. Mermaid
/// takes no semicolons.
fn message(what: &str) -> String {
    let what = what.strip_prefix('[').and_then(|what| what.split_once("] ")).map_or(what, |(_, what)| what);
    what.replace(';', ",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "# A story.\n> quiet group active A B\nA = leader\nB = follower\n\n> propose A x\n\
        A is given 1 commands\n    to B: [e1] Append 2.e1 x; commit 1\n\n> settle\n\
        B hears from A: [e1] Append 2.e1 x; commit 1\nA's disk has written #2\nB's disk has written #3\n\
        A hears from B: [e1] Accepted up to 2.e1\n    commits 2.e1 x\n\n> propose A y\nA's disk has written #4\n";

    #[test]
    fn diagram_shows_messages_syncs_and_commits_of_the_first_write() {
        let expected = "sequenceDiagram\n    participant client\n    participant A\n    participant B\n\
            \x20   client->>A: x\n    A->>B: Append 2.e1 x, commit 1\n    Note over A: its disk has x\n\
            \x20   Note over B: its disk has x\n    B->>A: Accepted up to 2.e1\n    Note over A: x is committed\n";
        assert_eq!(diagram(SCRIPT).unwrap(), expected);
        assert_eq!(diagram("> settle\n"), None);
    }

    #[test]
    fn diagrams_of_a_document_are_replaced_and_the_rest_stays() {
        let text = "before\n<!-- diagram x.txt -->\n```mermaid\nold\n```\nafter\n";
        let fresh = with_diagrams(text, |_| Ok(SCRIPT.to_owned())).unwrap();
        assert!(fresh.starts_with("before\n<!-- diagram x.txt -->\n```mermaid\nsequenceDiagram\n"), "{fresh}");
        assert!(fresh.ends_with("committed\n```\nafter\n"), "{fresh}");
        assert_eq!(with_diagrams(&fresh, |_| Ok(SCRIPT.to_owned())).unwrap(), fresh);
        assert!(with_diagrams("<!-- diagram x.txt -->\nno block", |_| Ok(SCRIPT.to_owned())).is_err());
    }
}
