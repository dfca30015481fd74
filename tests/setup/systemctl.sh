#!/bin/sh
# Stand-in for systemctl with one service, ssh.service, whose daemon is real. It counts what it is asked for.
# Switches: /run/sshd.argv holds other arguments than the unit's; /run/reload.kills makes a reload deadly.
pidfile=/run/stand-in.pid
alive() {
	pid=$(cat $pidfile 2>/dev/null) && [ -n "$pid" ] && [ -r "/proc/$pid/stat" ] &&
		! grep -q '^[0-9]* ([^)]*) Z' "/proc/$pid/stat"
}
verb=$1
shift
for last; do :; done
echo "$verb${last:+ $last}" >>/run/systemctl.log
case $verb in
show)
	case $last in
	ssh.service | sshd.service)
		echo Id=ssh.service
		echo LoadState=loaded
		if alive; then
			printf 'ActiveState=active\nMainPID=%s\n' "$pid"
		else
			printf 'ActiveState=inactive\nMainPID=0\n'
		fi
		;;
	*) printf 'Id=%s\nLoadState=not-found\nActiveState=inactive\n' "$last" ;;
	esac
	;;
start)
	alive && exit 0
	mkdir -p /run/sshd
	/usr/sbin/sshd -t || exit 1
	if [ -e /run/sshd.argv ]; then eval "set -- $(cat /run/sshd.argv)"; else set -- -D; fi
	setsid /usr/sbin/sshd "$@" </dev/null >/dev/null 2>/run/sshd.log &
	echo $! >$pidfile
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		timeout 1 bash -c 'exec 3<>/dev/tcp/127.0.0.1/22' 2>/dev/null && exit 0
		sleep 0.2
	done
	exit 1
	;;
reload)
	alive || exit 1
	if [ -e /run/reload.kills ]; then
		kill -9 "$pid"
		exit 0
	fi
	/usr/sbin/sshd -t || exit 1
	kill -HUP "$pid"
	;;
stop) alive && kill "$pid" ;;
esac
exit 0
