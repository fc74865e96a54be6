# What the run scripts are made of; sourced. Every script stops at the first error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$PWD/.venv/bin/python
export PYTHONPATH=$PWD HF_HUB_OFFLINE=1

begin() { # folder of the run: installs what is missing, makes the folder, OUT is its absolute path
    bash examples/setup_cpu.sh
    mkdir -p "$1"
    OUT=$(realpath "$1")
}

stage() { # what happens now, for a person at the terminal
    echo "== $1"
}

logged() { # name, command ...: its output goes to OUT/name.log, the end of which is shown when the command fails
    local name=$1
    shift
    "$@" >"$OUT/$name.log" 2>&1 </dev/null || failed "$name"
}

failed() { # name of the log, what to do about it
    tail -n 60 "$OUT/$1.log" >&2
    echo "Failed${2:+ ($2)}; the whole log is $OUT/$1.log" >&2
    exit 1
}

serve_passages() { # arguments of the retriever: a server that ends with the script, its address in SEARCH_URL
    local port server
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$python" -m verl_atpo.search_qa.retriever --port "$port" "$@" >"$OUT/retriever.log" 2>&1 </dev/null &
    server=$!
    # shellcheck disable=SC2064 # the process of now
    trap "kill $server 2>/dev/null || true" EXIT
    export SEARCH_URL=http://127.0.0.1:$port
    for _ in $(seq 120); do
        curl --silent --fail --output /dev/null "$SEARCH_URL/health" && return
        kill -0 "$server" 2>/dev/null || failed retriever
        sleep 1
    done
    failed retriever "no answer at $SEARCH_URL for two minutes"
}
