# The frame of every example. Sourced at its beginning, with the programs that it needs beyond curl
# and ip, and after `set -e`: without the frame nothing shall run. From there on the script runs in
# network and mount namespaces of its own: nothing on this machine is touched, names and TCP ports
# are free. It ends what it started, also after Ctrl-C; namespaces and interfaces go with that.
#
#   say TEXT                      a heading
#   run COMMAND...                shows a command and runs it
#   host NAME ADDRESS/LENGTH      a host: namespace NAME with eth0, whose other end is veth-NAME here
#   appliance [NAMESPACE]         starts one on 127.0.0.1:8080, and waits until it forwards
#   on NAMESPACE                  from here on the appliance in that namespace is meant
#   put KIND/NAME SPEC            PUT by curl; waits until the object is in force
#   delete KIND/NAME              DELETE by curl
#   get PATH [EXPRESSION]         GET by curl; EXPRESSION (Python) picks something of the answer `it`
#   counter PORT NAME             one of a port's counters
#   within SECONDS WHAT COMMAND   waits until the command succeeds
#   expect WHAT COMMAND           the command succeeds, or the example has failed
#   books                         waits until the switch's books balance and shows them
example=${0##*/}

fail() {
	echo "$example: $*" >&2
	exit 1
}

if [ -z "${VSWITCH_EXAMPLE_INSIDE:-}" ]; then
	[ "$(id -u)" = 0 ] || fail "needs root (network namespaces)"
	missing=
	for tool in curl ip unshare "$@"; do
		command -v "$tool" >/dev/null || missing+=" $tool"
	done
	[ -z "$missing" ] ||
		fail "missing:$missing; run: apt-get install curl ethtool iperf3 iproute2 iputils-ping tcpdump"
	mkdir -p /run/netns
	VSWITCH_EXAMPLE_INSIDE=yes exec unshare --net --mount bash "$0"
fi
cd "${BASH_SOURCE[0]%/*}/../.."
mount -t tmpfs tmpfs /run/netns
mount -t sysfs sysfs /sys
ip link set lo up
export PATH="$PWD/.venv/bin:$PATH"

dir=$(mktemp -d -t vswitch-example.XXXXXX)
chmod 755 "$dir"
echo 'write-out = "\n"' >"$dir/.curlrc"
export CURL_HOME=$dir # every answer on a line of its own
API=http://127.0.0.1:8080/api/v1
AUTH=       # the Authorization header of the appliance that is meant
inside=()   # what runs a command where that appliance listens
appliances=()

# Whatever the script started in the background ends with it, tcpdumps and servers first.
cleanup() {
	local status=$?
	trap - EXIT INT TERM
	[ $status != 1 ] || tail -v -n 20 "$dir"/*.log >&2 2>/dev/null || true
	local pid others=()
	for pid in $(jobs -p); do
		[[ " ${appliances[*]} " = *" $pid "* ]] || others+=("$pid")
	done
	for pid in "${others[@]}" "${appliances[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	wait 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n== %s\n' "$*"; }

run() {
	echo "+ $*"
	"$@"
}

within() { # seconds, what, command...
	local deadline=$((SECONDS + $1)) what=$2 pid
	shift 2
	until "$@" >/dev/null 2>&1; do
		for pid in "${appliances[@]}"; do
			kill -0 "$pid" 2>/dev/null || fail "the appliance has ended"
		done
		[ $SECONDS -lt "$deadline" ] || fail "in time there was not: $what"
		sleep 0.1
	done
}

expect() { # what, command...
	local what=$1
	shift
	"$@" || fail "this is not so: $what"
}

host() { # name, address
	run ip netns add "$1"
	run ip link add "veth-$1" type veth peer name eth0 netns "$1"
	run ip link set "veth-$1" up
	run ip -n "$1" addr add "$2" dev eth0
	run ip -n "$1" link set eth0 up
}

on() { # namespace; none: the script's own
	inside=(${1:+ip netns exec "$1"})
	data=$dir/${1:-data}
	[ ! -e "$data/admin.token" ] || AUTH="Authorization: Bearer $(<"$data/admin.token")"
}

appliance() { # namespace
	on "$@"
	"${inside[@]}" vswitch serve --data-dir "$data" --run-dir "$data.run" >"$data.log" 2>&1 &
	appliances+=($!)
	within 30 "an appliance that forwards" "${inside[@]}" curl -fsS $API/system/ready
	on "$@" # the token is there now
}

put() { # kind/name, spec
	call PUT "$1" --json "{\"spec\": $2}"
	within 20 "$1 in force, but $(<"$dir/answer")" is_ready "$1"
}

is_ready() {
	get "$1" '[c["status"] for c in it["status"]["conditions"] if c["type"] == "Ready"][0]' |
		grep -qx True
}

delete() { # kind/name
	call DELETE "$1"
}

call() { # method, kind/name, more for curl...
	echo "+ ${inside[*]}${inside[0]+ }curl -sS -H \"\$AUTH\" -X $1 \$API/$2${3+ $3 '$4'}"
	"${inside[@]}" curl -sS --fail-with-body -H "$AUTH" -X "$1" "$API/$2" "${@:3}" \
		>"$dir/answer" || fail "$1 $2: $(<"$dir/answer")"
}

get() { # path, expression
	"${inside[@]}" curl -sS --fail-with-body -H "$AUTH" "$API/$1" | python3 -c '
import json, sys
it = json.load(sys.stdin)
for expression in sys.argv[1:]:
    it = eval(expression, {"it": it})
print(it if isinstance(it, (str, int)) else json.dumps(it))' "${@:2}"
}

counter() { # port, name
	get stats/ports "[p for p in it['items'] if p['name'] == '$1'][0]['$2']"
}

balanced() {
	local left right
	read -r left right < <(get stats/ledger '"%d %d" % (
    it["rx_frames"] + it["copies"] + it["segments"] + it["originated"],
    it["tx_frames"] + it["drops"] + it["consumed"])')
	[ "$left" -gt 0 ] && [ "$left" = "$right" ] && echo "$left = $right"
}

books() {
	say "the books: rx + copies + segments + originated = tx + drops + consumed"
	within 20 "balance" balanced
	balanced
}
