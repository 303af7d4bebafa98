//! Commands of a kind that not every build knows.
//!
//! A kind of command never changes its meaning; what is new is a new kind, of a higher version. A leader proposes one
//! only if every member of its group, learners included, has said in a handshake that its build applies that version;
//! who was not heard since this replica began counts as one that applies the first version alone. So no sound member
//! of a group that is upgraded replica by replica meets a command that it does not know.
//!
//! Once a command of a version is applied, that version is open for good, whoever is heard: each member has to apply
//! it already, and one that is down must not keep the others from their work.
//!
//! One that does all the same, because an older build was started on a newer directory, must neither guess nor skip:
//! the state would differ from that of all others. It stops before that entry, and goes on there in the right build
//! (fault catalogue L20).

use bytes::Bytes;

use super::{Action, Engine};
use crate::entry::EntryId;
use crate::id::NodeId;
use crate::protocol::Protocol;
use crate::session::SessionCommand;
use crate::state_machine::StateMachine;
use crate::version::CommandVersions;

/// How the refusal of a command begins that not every member applies.
pub const BEFORE_UPGRADE: &str = "not before all replicas are upgraded";

/// The command in an entry, and what one must apply to apply it; the error says which kind this build does not know.
pub(in crate::replica) fn decode<S: StateMachine>(bytes: &Bytes) -> Result<(SessionCommand, CommandVersions), String> {
    let command = SessionCommand::decode(bytes).map_err(|error| error.to_string())?;
    let versions = versions_of::<S>(&command)?;
    Ok((command, versions))
}

fn versions_of<S: StateMachine>(command: &SessionCommand) -> Result<CommandVersions, String> {
    let machine = match command.for_machine() {
        None => 1,
        Some(inner) => S::command_version(inner).ok_or_else(|| {
            let begins = &inner[..inner.len().min(8)];
            format!("unknown command of the state machine, which begins with {begins:02x?}")
        })?,
    };
    Ok(CommandVersions { library: command.version(), machine })
}

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// The build of this node, which has just shaken hands, applies these commands.
    pub fn peer_applies(&mut self, node: NodeId, commands: CommandVersions) {
        // By name, so that there are few: it may become a member only later, on the connection that it has now.
        self.applied_by.insert(node.name, (node, commands));
    }

    /// Whether every member applies this command, or has to already.
    ///
    /// # Errors
    /// Why it is not proposed, for whoever asked.
    pub(super) fn is_applied_everywhere(&self, command: &SessionCommand) -> Result<(), String> {
        let needed = versions_of::<S>(command)?;
        let lacks = |commands: CommandVersions| commands.library < needed.library || commands.machine < needed.machine;
        if !lacks(self.sessions.open_versions()) {
            return Ok(());
        }
        let configuration = self.core.status().configuration;
        let met = |member: &NodeId| self.applied_by.get(&member.name);
        // A learner in whose place another directory speaks is gone, and nothing waits for what it applies.
        let is_gone = |member: &NodeId| {
            configuration.learners.contains(member) && met(member).is_some_and(|(met, _)| met != member)
        };
        let members = configuration.members();
        let mut others = members.into_iter().filter(|member| *member != self.node && !is_gone(member));
        let applies = |member: NodeId| match met(&member) {
            Some((met, commands)) if *met == member => *commands,
            _ => CommandVersions::FIRST,
        };
        let lacking = others.find(|member| lacks(applies(*member)));
        match lacking {
            None => Ok(()),
            Some(member) => {
                Err(format!("{BEFORE_UPGRADE}: replica {member} is not known to apply commands of this version"))
            }
        }
    }

    /// Stops before a committed entry that this build cannot apply.
    pub(super) fn cannot_apply(&mut self, entry: EntryId, what: &str) {
        self.stop();
        self.silent = true;
        let CommandVersions { library, machine } = CommandVersions::with_machine(S::COMMANDS_VERSION);
        self.actions.push(Action::Stop(format!(
            "entry {entry} cannot be applied: {what}; this build applies commands up to version {library} of the \
             library and {machine} of the state machine, so a newer one has proposed it"
        )));
    }
}
