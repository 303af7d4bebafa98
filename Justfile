# Recipes of MadKV. The ones under `p3::` are fixed from outside (names, parameters, defaults); the rest is our own.

mod p3

# List the recipes.
default:
    @just --list --list-submodules

# Start a whole cluster on this machine and give a prompt (options as in `just local --help`).
[positional-arguments]
local *options:
    @cargo run --quiet --release --bin madkv-local -- "$@"

# Show one thing that the cluster does, with real processes, and check it (`just demo --list` names the demonstrations).
[positional-arguments]
demo *names:
    @cargo run --quiet --release --bin madkv-demo -- "$@"

# Show all of them.
demos:
    @cargo run --quiet --release --bin madkv-demo -- --all

# Open a cluster in panes of tmux, one for each process, with a prompt in the first (options as in `just local --help`; it has one partition of three and one manager).
[positional-arguments]
demo-tmux *options:
    #!/bin/sh
    set -eu
    command -v tmux >/dev/null || { echo "just demo-tmux needs tmux, which is not installed" >&2; exit 1; }
    for option in "$@"; do
        case "$option" in
            --partitions* | --manager* | --server* | --directory* | --trace*)
                echo "just demo-tmux sets $option itself: there is a pane for each of its processes" >&2; exit 2 ;;
        esac
    done
    cargo build --quiet --release --bins
    programs="${CARGO_TARGET_DIR:-target}/release"
    directory=$(mktemp -d "$programs/madkv-tmux-XXXXXX")
    session="madkv-$$"
    # The launcher first: it ends its processes, which write to the directory until then.
    end() {
        launcher=$(tmux display-message -p -t "$clients" '#{pane_pid}' 2>/dev/null || true)
        [ -z "$launcher" ] || kill -TERM "$launcher" 2>/dev/null || true
        for _ in $(seq 100); do
            [ -n "$launcher" ] && kill -0 "$launcher" 2>/dev/null || break
            sleep 0.1
        done
        tmux kill-session -t "$session" 2>/dev/null || true
        rm -rf "$directory"
    }
    clients=
    trap end EXIT
    # tmux starts a command of several words as it is, without a shell.
    clients=$(tmux new-session -d -P -F '#{pane_id}' -s "$session" -x 220 -y 60 -- \
        "$programs/madkv-local" --partitions 1 --manager_rf 1 --trace_messages --directory "$directory/cluster" "$@")
    for node in m.0 s0.0 s0.1 s0.2; do
        pane=$(tmux split-window -d -P -F '#{pane_id}' -t "$session" -- \
            sh -c 'exec tail -n +1 -F "$1" 2>/dev/null' sh "$directory/cluster/$node.log")
        tmux select-pane -t "$pane" -T "$node"
        tmux select-layout -t "$session" tiled >/dev/null
    done
    tmux select-pane -t "$clients" -T "clients"
    tmux set-option -t "$session" pane-border-status top >/dev/null
    tmux attach-session -t "$session"

# Show robot factories with real processes: which produces, who dies, who is repaired; it checks itself (`docs/FACTORY.md`).
factory-demo:
    @cargo build --quiet --release --workspace --bin factory-server --bin factory-client
    @cargo run --quiet --release --example factory-demo

# Measure robot factories, orders with 1 to 3 servers and reads with 1 and 2, and draw pictures in report/.
factory-bench seconds="10":
    @cargo build --quiet --release --workspace --bin factory-server --bin factory-client --bin madkv-bench
    @"${CARGO_TARGET_DIR:-target}/release/madkv-bench" factory --seconds {{seconds}}

# Measure all four protocols with 2, 3 and 5 replicas, the same YCSB runs and the same kills, and draw pictures in report/.
protocols seconds="10" kills="5":
    @cargo build --quiet --release --workspace --bins
    @"${CARGO_TARGET_DIR:-target}/release/madkv-bench" protocols --seconds {{seconds}} --kills {{kills}}
    @"${CARGO_TARGET_DIR:-target}/release/madkv-sim" --geography

# Show a voting service with real processes: the primary killed, the backup killed, the link between them cut; it checks itself (`docs/VOTING.md`).
voting-demo:
    @cargo build --quiet --release --workspace --bin madkv-manager --bin voting-server --bin voting-client
    @cargo run --quiet --release --example voting-demo

# Hold many ballots while servers are killed and the link between them is cut; the logs of all clients must be the same in the end.
voting-campaign ballots="1000" kills="50" cuts="20" seed="1":
    @cargo build --quiet --release --workspace --bin madkv-manager --bin voting-server --bin voting-client
    @cargo run --quiet --release --example voting-campaign -- {{ballots}} {{kills}} {{cuts}} {{seed}}

# Run all tests, end to end ones included.
test:
    cargo test --workspace

# Check everything that a change must pass, and change nothing.
check:
    .ci/run

# Look for known vulnerabilities in the crates that we use (needs cargo-deny and the network).
advisories:
    cargo deny --locked check advisories

# Format the code.
fmt:
    cargo fmt

# Write the golden traces of the Raft core again; read each changed one before you keep it.
golden:
    UPDATE_GOLDEN=1 cargo test -p smr --test raft_scripts

# Kill the leader under a running client, by kill -9 and by SIGSTOP, and print its longest pauses.
failover kills="20":
    cargo run --quiet --release --bin madkv-scenario -- failover --kills {{kills}}

# Kill every process at once under load, again and again, and check that no acknowledged write is lost or applied twice.
kill-all rounds="50":
    cargo run --quiet --release --bin madkv-scenario -- kill-all --rounds {{rounds}}

# Cut the power under load, again and again, on a loop-mounted ext4 (needs root).
power-cuts cuts="40":
    cargo run --quiet --release --bin madkv-scenario -- power-cuts --cuts {{cuts}}

# Damage each file of a replica's directory in many ways, and check that it starts whole, or not at all, or in quarantine.
damage flips="200":
    cargo run --quiet --release --bin madkv-scenario -- damage --flips {{flips}}

# Fill up the disk of a follower and of the leader, at many moments (needs root).
disk-full:
    cargo run --quiet --release --bin madkv-scenario -- disk-full

# Let system calls on the disk of a running server fail, and hang (needs strace).
disk-errors places="10":
    cargo run --quiet --release --bin madkv-scenario -- disk-errors --places {{places}}

# Cut the power at random moments of a log's life on the virtual disk, with random losses, as often as told.
power-cut-images count="10000":
    POWER_CUT_IMAGES={{count}} cargo test --quiet --release -p smr --test storage images_of_power_cuts

# Trace the system calls under a load, and check that each write is on the device of a majority before its answer leaves (needs strace).
durable:
    cargo run --quiet --release --bin madkv-scenario -- durable

# Measure the latency of a lone PUT against the disk's own, and PUT/s of 64 clients.
speed:
    cargo run --quiet --release --bin madkv-scenario -- speed

# Put the same load in turns on MadKV, three nodes of etcd, and Redis with appendfsync always, and print ratios with their spread (see `--help`).
[positional-arguments]
compare *options:
    cargo run --quiet --release --features madkv-bench/peers --bin madkv-bench -- compare "$@"

# Make all runs that the report wants and that are missing, each on a cluster of its own, in 10 to 20 minutes (see `--help`).
[positional-arguments]
bench-matrix *options:
    cargo run --quiet --release --bin madkv-bench -- matrix "$@"

# Measure the distribution of a client's pause when its leader is killed or hangs, of MadKV and etcd in turns (see `--help`).
[positional-arguments]
bench-failover *options:
    cargo run --quiet --release --features madkv-bench/peers --bin madkv-bench -- failover --peers etcd "$@"

# Measure Raft core, codec, apply and snapshot, each alone, and then both log engines against a bare file.
micro:
    cargo bench --quiet --package madkv-bench --bench layers
    cargo run --quiet --release --bin madkv-bench -- log

# Kill a follower under full load, for 2, 10 and 60 s; print how long until it has everything again.
catch-up keys="1000000" value_bytes="100" absences="2,10,60":
    cargo run --quiet --release --bin madkv-scenario -- catch-up --keys {{keys}} --value-bytes {{value_bytes}} --absences {{absences}}

# Time requests while snapshots of a million keys are taken, and print the longest wait with and without.
snapshots keys="1000000":
    cargo run --quiet --release --bin madkv-scenario -- snapshots --keys {{keys}}

# Overwrite a thousand keys a million times, check that directories are bounded and memory is flat, and print sizes and restart time.
bounded overwrites="1000000" value_bytes="1000":
    cargo run --quiet --release --bin madkv-scenario -- bounded --overwrites {{overwrites}} --value-bytes {{value_bytes}}

# Restart all nodes in turn under load, as often as told, check that nothing acknowledged is lost, and print how long writes wait at most.
rolling rounds="100":
    cargo run --quiet --release --bin madkv-scenario -- rolling --rounds {{rounds}}

# Move 100,000 keys to another partition and back under load, then 3 -> 5 -> 3 replicas; check that no request fails, and print how much slower requests are.
move-slots keys="100000":
    cargo run --quiet --release --bin madkv-scenario -- move-slots --partitions 2 --keys {{keys}}

# Time a normal client's requests beside 2,000 hostile connections that take half a core, and print how much slower they are and what memory the leader takes.
hostile connections="2000":
    cargo run --quiet --release --bin madkv-scenario -- hostile --connections {{connections}}

# Make a replica slow (its disk, which needs strace; its ways to the others; its processor), check that `status --slow` names it and that, and draw its signature in report/.
slow-report seconds="15":
    cargo run --quiet --release --bin madkv-scenario -- slow --seconds {{seconds}}
    cargo run --quiet --release --bin madkv-bench -- slow

# Hurt clusters of 3 and of 5 replicas whose hosts have agents, 100 faults each; check that full redundancy returns by itself and soon enough each time (see `madkv-scenario self-repair --help`).
[positional-arguments]
self-repair *options:
    cargo run --quiet --release --bin madkv-scenario -- self-repair --server_rf 3 --faults 100 --minutes 30 "$@"
    cargo run --quiet --release --bin madkv-scenario -- self-repair --server_rf 5 --faults 100 --minutes 30 "$@"

# Roll a cluster under load from an older build (its commit; by default `before-house`, see CHANGELOG) to this one, with both log engines; check that nothing is lost.
upgrade from="d89e3b3":
    #!/usr/bin/env bash
    set -euo pipefail
    temp=$(mktemp -d)
    trap 'git worktree remove --force "$temp/tree" || true; rm -rf "$temp"' EXIT
    git worktree add --quiet --detach "$temp/tree" {{from}}
    (cd "$temp/tree" && cargo build --quiet --release --locked --target-dir "$temp/target" --bins \
        --package madkv-server --package madkv-manager --package madkv-client --features madkv-client/cli)
    for engine in sled segments; do
        cargo run --quiet --release --bin madkv-scenario -- upgrade --older "$temp/target/release" --seed "$RANDOM" --partitions 2 --log_engine "$engine"
    done

# Kill leaders under one command-line client, for about a minute, and check that it prints one line for each line in, in order, STOP last.
transcript kills="300":
    cargo run --quiet --release --bin madkv-scenario -- transcript --kills {{kills}}

# Bring up clusters of many shapes, up to 9 replicas and 50 partitions, and run README's script on each.
shapes:
    cargo run --quiet --release --bin madkv-scenario -- shapes

# Put each known bug into a copy of the tree, and count the seeds until the harness finds it (options as in `xtask mutants --help`).
[positional-arguments]
mutants *options:
    cargo run --quiet --package xtask -- mutants "$@"

alias planted-bugs := mutants

# Package the library and its simulator as a registry would take them; nothing is published.
package:
    cargo package --package smr --package smr-sim --allow-dirty

# Compare the public items of the library and its simulator with those at a commit (needs cargo-semver-checks).
semver from="HEAD~1":
    cargo semver-checks --package smr --package smr-sim --baseline-rev {{from}}

# Print which cases of the fault catalogue have a test.
coverage:
    cargo run --quiet --package xtask -- coverage

# Run seeds (A..B, or one) through the deterministic simulator; kind: raft, chain, active, passive, epochs (the last three), any.
sim seeds="0..1000" kind="raft":
    cargo run --quiet --release --bin madkv-sim -- --seeds {{seeds}} --kind {{kind}}

# Check that the same seeds in a debug and in a release build have the same trace hashes.
sim-profiles seeds="0..50":
    #!/bin/sh
    set -eu
    for kind in "" --epochs; do
        debug=$(cargo run --quiet -p smr-sim --example simulate -- {{seeds}} --hashes $kind)
        release=$(cargo run --quiet --release -p smr-sim --example simulate -- {{seeds}} --hashes $kind)
        [ "$debug" = "$release" ] || { echo "debug and release differ"; exit 1; }
        echo "debug and release agree on $(echo "$debug" | grep -c .) lines"
    done

# Run new seeds through the simulator for so many minutes, and fail also if that proved little.
sim-nightly minutes="480" first="1000000":
    cargo run --quiet --release --bin madkv-sim -- --seeds {{first}} --minutes {{minutes}} --kind any

# Options as in `madkv-fuzz --help`: `just fuzz-chaos 2 "" --node_flag=--reads=lease`.

# Fuzz a cluster of its own while faults of all kinds are injected, half of the time with 3 replicas and half with 5.
[positional-arguments]
fuzz-chaos minutes="30" seed="" *options:
    #!/bin/sh
    set -eu
    shift 2
    for server_rf in 3 5; do
        cargo run --quiet --release --bin madkv-fuzz -- --chaos --server_rf "$server_rf" --clients library \
            --seconds $(({{minutes}} * 30)) {{ if seed == "" { "" } else { "--seed " + seed } }} "$@"
    done

# Fuzz five servers of which two are killed meanwhile, the leader included, and fail if nothing had to be tried again.
fuzz-crashing seconds="30":
    cargo run --quiet --release --bin madkv-fuzz -- --kill_minority --server_rf 5 --seconds {{seconds}}

# Try every order of events in a group of three real Raft cores, up to bounds (`just explore --terms 2 --entries 1 --crashes 1 --minutes 60`).
[positional-arguments]
explore *options:
    @cargo run --quiet --release --bin madkv-explore -- "$@"
