//! What the process costs, as the kernel counts it: the names that Prometheus's own libraries use for it.

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::Families;
use crate::proc_stat::field_of;

/// Adds what this process costs. What the kernel does not tell is left out.
pub(super) fn add(families: &mut Families, started: SystemTime) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = Duration::new(u64::try_from(cpu.tv_sec).unwrap_or(0), u32::try_from(cpu.tv_nsec).unwrap_or(0));
    let what = "Time on a processor, its own and the kernel's for it, all threads";
    families.counter_f64("process_cpu_seconds", what, cpu.as_secs_f64());
    let started = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    families.gauge_f64("process_start_time_seconds", "When it started, by the wall clock", started.as_secs_f64());
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        for (name, help, field) in [
            ("process_resident_memory_bytes", "Memory in use", "VmRSS:"),
            ("process_resident_memory_max_bytes", "The most memory that was ever in use", "VmHWM:"),
            ("process_virtual_memory_bytes", "Addresses in use", "VmSize:"),
        ] {
            field_of(&status, field).into_iter().for_each(|kib| families.gauge(name, help, kib << 10));
        }
        field_of(&status, "Threads:").into_iter().for_each(|count| families.gauge("process_threads", "Threads", count));
    }
    // Readable by the process itself, whoever it runs as; containers may hide it.
    if let Ok(io) = fs::read_to_string("/proc/self/io") {
        for (name, help, field) in [
            ("process_disk_read_bytes", "Read from disks", "read_bytes:"),
            ("process_disk_written_bytes", "Written to disks", "write_bytes:"),
        ] {
            field_of(&io, field).into_iter().for_each(|bytes| families.counter(name, help, bytes));
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        families.gauge("process_open_fds", "Open file descriptors", open.count() as u64);
    }
    let most = getrlimit(Resource::Nofile).current;
    most.into_iter().for_each(|most| families.gauge("process_max_fds", "File descriptors that it may have", most));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_own_process_has_memory_time_and_descriptors() {
        let mut families = Families::default();
        add(&mut families, SystemTime::now());
        let text = families.text();
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            let value: f64 = line.split(' ').nth(1).unwrap().parse().unwrap();
            assert!(value > 0.0, "{line}");
        }
    }
}
