//! The settings that operators change while everything runs, as far as they concern a server.
//!
//! One manager is asked again and again, from whatever it has applied; if it does not answer, another one is. Settings
//! have a version, and no older ones are taken: managers that lag behind do no harm. Without any manager the server
//! goes on with those that it has, and after a start with the defaults.

use std::time::Duration;

use madkv_proto::control::{ControlReply, ControlRequest, Settings};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::settings::{
    CHECKPOINT_FREQ, CHECKPOINT_REQUESTS, DETECTION, ELECTION_TIMEOUT, GFD_HEARTBEAT_FREQ, SNAPSHOT_FREQ,
};
use smr::id::ClusterId;
use smr::replica::{ReplicaHandle, Tuning};
use smr_service::dial::Dialled;
use smr_service::process::jittered;

/// How long one manager is waited for, in milliseconds.
const ANSWER_TIMEOUT_MS: u64 = 1_000;
/// The manager is asked this often at least, in milliseconds ...
const LOOK_MAX_MS: u64 = 1_000;
/// ... and never more often than this.
const LOOK_MIN_MS: u64 = 20;
/// The pause after a manager that did not answer, in milliseconds.
const PAUSE_MS: u64 = 250;

/// Whom to ask, and for whom.
#[derive(Clone, Debug)]
pub struct Follower {
    /// The managers, by replica number.
    pub managers: Vec<String>,
    /// The cluster whose settings it follows.
    pub cluster: ClusterId,
    /// Where to begin among the managers, so that not all servers ask the same one.
    pub first: usize,
}

impl Follower {
    /// Follows the settings for as long as the process lives.
    pub async fn run(self, replica: ReplicaHandle) {
        let mut version = 0;
        let mut target = self.first;
        loop {
            let address = &self.managers[target % self.managers.len()];
            // Whatever went wrong: the next one is asked, and this one again some day.
            let _ = self.follow_one(address, &replica, &mut version).await;
            target = target.wrapping_add(1);
            tokio::time::sleep(jittered(Duration::from_millis(PAUSE_MS))).await;
        }
    }

    /// Asks one manager until it does not answer; the reason is for tests and the debugger.
    async fn follow_one(&self, address: &str, replica: &ReplicaHandle, version: &mut u64) -> Result<(), String> {
        let timeout = Duration::from_millis(ANSWER_TIMEOUT_MS);
        let manager = Dialled::to(address, Service::Manager, Some(self.cluster), timeout).await;
        let mut manager = manager.map_err(|error| error.to_string())?;
        loop {
            let ask = ClientRequest::Control(ControlRequest::Settings.encode());
            let answer = match manager.ask::<madkv_proto::map::ClusterMap>(ask).await {
                Ok(ClientResponse::Answer(answer)) => ControlReply::decode(&answer)?,
                Ok(other) => return Err(format!("{other:?}")),
                Err(error) => return Err(error.to_string()),
            };
            let ControlReply::Settings(settings) = answer else { return Err(format!("{answer:?}")) };
            if settings.version > *version && tuning_of(&settings).is_none_or(|tuning| replica.tune(tuning)) {
                tracing::debug!(version = settings.version, "settings taken");
                *version = settings.version;
            }
            tokio::time::sleep(look_after(&settings)).await;
        }
    }
}

/// What the settings say of a replica; `None` if they do not say it all.
fn tuning_of(settings: &Settings) -> Option<Tuning> {
    Some(Tuning {
        election_timeout_ms: settings.get(ELECTION_TIMEOUT)?,
        snapshot_log_max_bytes: settings.get(SNAPSHOT_FREQ)?,
        // Managers of the release before do not know these.
        checkpoint_ms: settings.get(CHECKPOINT_FREQ).unwrap_or(Tuning::default().checkpoint_ms),
        checkpoint_requests: settings.get(CHECKPOINT_REQUESTS).unwrap_or(Tuning::default().checkpoint_requests),
        detection_ms: settings.get(DETECTION).unwrap_or(Tuning::default().detection_ms),
    })
}

/// When to ask again: within one heartbeat, so that a change is in force within two.
fn look_after(settings: &Settings) -> Duration {
    let heartbeat_ms = settings.get(GFD_HEARTBEAT_FREQ).unwrap_or(LOOK_MAX_MS);
    Duration::from_millis((heartbeat_ms * 4 / 5).clamp(LOOK_MIN_MS, LOOK_MAX_MS))
}

#[cfg(test)]
mod tests {
    use madkv_proto::control::Setting;

    use super::*;

    fn settings(values: &[(&str, u64)]) -> Settings {
        let setting = |&(name, value): &(&str, u64)| Setting { name: name.to_owned(), value, is_set: true };
        Settings { version: 3, values: values.iter().map(setting).collect() }
    }

    #[test]
    fn tuning_follows_the_settings_and_the_look_the_heartbeat() {
        let all = settings(&[(ELECTION_TIMEOUT, 900), (SNAPSHOT_FREQ, 65_536), (GFD_HEARTBEAT_FREQ, 500)]);
        let tuning = Tuning { election_timeout_ms: 900, snapshot_log_max_bytes: 65_536, ..Tuning::default() };
        assert_eq!((tuning_of(&all), look_after(&all)), (Some(tuning), Duration::from_millis(400)));
        let more = settings(&[
            (ELECTION_TIMEOUT, 900),
            (SNAPSHOT_FREQ, 65_536),
            (CHECKPOINT_FREQ, 50),
            (CHECKPOINT_REQUESTS, 7),
            (DETECTION, 450),
        ]);
        let expected = Tuning { checkpoint_ms: 50, checkpoint_requests: 7, detection_ms: 450, ..tuning };
        assert_eq!(tuning_of(&more), Some(expected));
        assert_eq!(tuning_of(&settings(&[(ELECTION_TIMEOUT, 900)])), None, "a manager of another build");
        for (heartbeat, expected) in [(1, LOOK_MIN_MS), (60_000, LOOK_MAX_MS), (u64::MAX / 8, LOOK_MAX_MS)] {
            let look = look_after(&settings(&[(GFD_HEARTBEAT_FREQ, heartbeat)]));
            assert_eq!(look, Duration::from_millis(expected));
        }
    }
}
