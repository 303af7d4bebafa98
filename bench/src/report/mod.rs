//! The report: Markdown with plots, from the logs that `p3::bench` and `p3::fuzz` keep.
//!
//! - [`runs`]: which runs the report wants, where their logs are, and what makes a missing one.
//! - [`plot`]: bars as pictures, SVG and PNG. [`page`]: the page. [`comments`]: a person's words in it. [`matrix`]: all
//!   runs that are missing, unattended.

mod comments;
pub mod matrix;
mod page;
pub(crate) mod plot;
pub mod runs;

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::Args;

use crate::report::comments::Comments;
use crate::report::runs::Logs;
use madkv_testkit::measure::Trouble;

/// What to report on.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Where the logs are: below it `bench/` and `fuzz/`
    #[arg(long, default_value = runs::LOGS_DEFAULT, value_name = "DIRECTORY")]
    pub logs: PathBuf,
    /// Where the report goes
    #[arg(long, default_value = "report", value_name = "DIRECTORY")]
    pub out: PathBuf,
}

/// Writes the report, and says where it is. Comments that an earlier one there has are taken over.
///
/// # Errors
/// If it cannot be written, or there is an earlier one that cannot be read.
pub fn run(options: &Options) -> Result<(), Trouble> {
    let logs = Logs::read(&options.logs);
    let path = options.out.join("report.md");
    let earlier = match fs::read_to_string(&path) {
        Ok(report) => report,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        // It may hold comments.
        Err(error) => return Err(format!("{}: {error}", path.display()).into()),
    };
    let page = page::page(&logs, &Comments::read(&earlier));
    fs::create_dir_all(&options.out)?;
    for (name, bars) in &page.pictures {
        for (form, picture) in bars.files()? {
            fs::write(options.out.join(format!("{name}.{form}")), picture)?;
        }
    }
    fs::write(&path, page.text)?;
    println!("{}: {} runs, {} missing", path.display(), logs.bench.len() + logs.fuzz.len(), logs.missing().len());
    Ok(())
}
