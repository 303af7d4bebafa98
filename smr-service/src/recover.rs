//! The word `recover` of servers and managers: a way out when the majority of a group is lost for good.

use std::io::Write as _;
use std::path::PathBuf;

use smr::LogEngine;
use smr::id::{ClusterId, GroupName, ReplicaId};
use smr::replica::{RecoverOptions, recover as recover_replica};
use smr::state_machine::StateMachine;

use crate::process::Fatal;

/// The first argument of a program that is to recover a directory instead of serving.
pub const WORD: &str = "recover";

/// What a program's help says after its flags: its limits, and this word.
pub fn help(limits: &str) -> String {
    format!(
        "{limits}\nInstead of flags: {WORD} --from DIR --to DIR, when the group's majority is lost for good; {WORD} \
         --help says more."
    )
}

/// Reads what verifies of a replica's directory and makes a new one of it, for a group that begins again with this
/// replica alone.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = WORD)]
pub struct RecoverFlags {
    /// The directory that is read. Nothing in it is changed. No process may have it open.
    #[arg(long = "from")]
    pub from: PathBuf,
    /// The directory that is made; it does not exist, or is empty.
    #[arg(long = "to")]
    pub to: PathBuf,
    /// What keeps the new log: sled or segments; what kept the old one if this is left out.
    #[arg(long = "log_engine")]
    pub log_engine: Option<LogEngine>,
    /// Go on although writes cannot be proved to reach the device.
    #[arg(long = "allow_unsynced")]
    pub allow_unsynced: bool,
    /// Number of the replica, in case that it cannot be read any more.
    #[arg(long = "replica_id", allow_negative_numbers = true)]
    pub replica_id: Option<u16>,
}

/// Recovers a directory, and says on stdout what was read, what is missing and what is to be done next. See
/// [`recover_replica`].
///
/// # Errors
/// Why nothing was recovered; then nothing was changed.
pub fn recover<S: StateMachine>(
    flags: RecoverFlags,
    cluster_if_lost: Option<ClusterId>,
    empty: S,
    group_fits: impl Fn(&GroupName) -> bool,
    cluster_of: impl Fn(&S) -> Option<ClusterId>,
) -> Result<(), Fatal> {
    let RecoverFlags { from, to, log_engine, allow_unsynced, replica_id } = flags;
    let place = to.display().to_string();
    let name_if_lost = replica_id.map(ReplicaId);
    let options = RecoverOptions { from, to, log_engine, allow_unsynced, name_if_lost, cluster_if_lost };
    let recovered = recover_replica(&options, empty, group_fits, cluster_of)?;
    let mut text = recovered.report.join("\n");
    text.push_str(&format!(
        "\nrecovered: replica {} of group {} in {place}, alone; stop all that is left of the old group, start this \
         replica with \
         --found_anew, the others with empty directories, and readmit each of those\n",
        recovered.node.name, recovered.group,
    ));
    // No one may be listening any more; the directory is there all the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
