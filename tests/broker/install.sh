#!/bin/sh
# Install Apache Kafka and an S3 server for the tests, once per user. Without Java, Maven or Go, or
# without a network, the tests that need them are skipped.
set -u
here=$(cd "$(dirname "$0")" && pwd)
cache=$HOME/.cache/whisperx-tests
kafka=$cache/kafka-4.4.0
s3=$cache/versitygw-1.8.0
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
mkdir -p "$cache"

if [ ! -d "$kafka" ] && command -v java >/dev/null && command -v mvn >/dev/null; then
	echo "== install: Apache Kafka for the tests"
	if mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$tmp/kafka" >"$tmp/log" 2>&1; then
		mv "$tmp/kafka" "$kafka"
	else
		tail -n 5 "$tmp/log"
	fi
fi

if [ ! -x "$s3/versitygw" ] && command -v go >/dev/null; then
	echo "== install: an S3 server for the tests (about 3 minutes)"
	if GOBIN="$tmp/s3" GOTOOLCHAIN=local go install github.com/versity/versitygw/cmd/versitygw@v1.8.0 >"$tmp/log" 2>&1; then
		mkdir -p "$s3" && mv "$tmp/s3/versitygw" "$s3/versitygw"
	else
		tail -n 5 "$tmp/log"
	fi
fi
exit 0
