//! Where the executables of this project are, and how to build them.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The manager's executable.
pub const MANAGER: &str = "madkv-manager";
/// The server's executable.
pub const SERVER: &str = "madkv-server";
/// The executable of a host's agent.
pub const AGENT: &str = "madkv-agent";
/// The client's executable.
pub const CLIENT: &str = "madkv-client";
/// The launcher's executable.
pub const LAUNCHER: &str = "madkv-local";
/// The fuzzer's executable.
pub const FUZZER: &str = "madkv-fuzz";

/// The benchmarker's executable.
pub const BENCHMARKER: &str = "madkv-bench";

/// A test that is soon built. With any test, cargo turns on what the tests of the whole workspace want of their
/// libraries: what `cargo test --workspace` has built is taken then, where otherwise nearly all would be built again.
const SMALL_TEST: &str = "recipes";

/// The directory with the executables of one build profile.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
}

/// The executables cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NoPrograms {
    /// They are not there, and there is no cargo to build them.
    #[error("{0} is missing; run: cargo build --release --workspace --bins")]
    Missing(PathBuf),
    /// The build failed.
    #[error("building the executables failed ({0})")]
    Build(String),
    /// The system refused something.
    #[error("cannot find the executables: {0}")]
    Io(#[from] io::Error),
}

impl Programs {
    /// The executables beside the present one, built first if cargo runs us (then it says so in `CARGO`): of the same
    /// profile and in the same target directory, with cargo's words on stderr.
    ///
    /// # Errors
    /// If they are not there in the end.
    pub fn beside_this_one() -> Result<Programs, NoPrograms> {
        Programs::beside(&["--bins"])
    }

    /// The same, but only what a cluster consists of is built: enough to run one, and soon done.
    ///
    /// # Errors
    /// As [`Programs::beside_this_one`].
    pub fn of_a_cluster() -> Result<Programs, NoPrograms> {
        Programs::beside(&[LAUNCHER, MANAGER, AGENT, SERVER, CLIENT].map(|name| ["--bin", name]).concat())
    }

    fn beside(what: &[&str]) -> Result<Programs, NoPrograms> {
        let this = env::current_exe()?;
        let mut directory = this.parent().map(Path::to_path_buf).unwrap_or_default();
        // Tests and examples live one level deeper.
        let is_test = directory.ends_with("deps");
        if is_test || directory.ends_with("examples") {
            directory.pop();
        }
        if let Some(cargo) = env::var_os("CARGO") {
            let with_a_test = if is_test { &["--test", SMALL_TEST][..] } else { &[] };
            build(&cargo, &directory, &[what, with_a_test].concat())?;
        }
        let programs = Programs { directory };
        for name in [MANAGER, SERVER, CLIENT] {
            if !programs.path(name).is_file() {
                return Err(NoPrograms::Missing(programs.path(name)));
            }
        }
        Ok(programs)
    }

    /// The executables in `directory`, whether they are there or not.
    pub fn at(directory: &Path) -> Programs {
        Programs { directory: directory.to_path_buf() }
    }

    /// The path of an executable.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The directory that they are in.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// `directory` is `<target>/<profile>`. Other calls at the same time wait for each other: cargo locks the directory.
fn build(cargo: &OsString, directory: &Path, what: &[&str]) -> Result<(), NoPrograms> {
    let target = directory.parent().unwrap_or(Path::new("."));
    let mut command = Command::new(cargo);
    // Of the whole workspace, as whoever runs us was built: with fewer packages others of their features are on, and
    // most crates are built twice.
    command.args(["build", "--workspace"]).args(what).arg("--target-dir").arg(target);
    match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => {
            command.args(["--profile", profile]);
        }
    }
    if cfg!(feature = "peers") {
        // Otherwise the present executable would be replaced by one without.
        command.args(["--features", "madkv-bench/peers"]);
    }
    if let Some(manifest) = env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(manifest);
    }
    // No one may mistake cargo's words for the client's.
    let status = command.stdin(Stdio::null()).stdout(io::stderr()).status()?;
    if status.success() { Ok(()) } else { Err(NoPrograms::Build(status.to_string())) }
}
