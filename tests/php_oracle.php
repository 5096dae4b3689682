<?php
// Answers framed requests on standard input until it is closed (php_oracle.py is the other end).
// A frame is a length (4 bytes, big-endian) and that many bytes; a request's first byte is its kind.
// Text travels as hex, because neither keys nor values need be UTF-8.

function show($value)
{
    if (!is_array($value)) {
        return bin2hex($value);
    }
    if (array_is_list($value)) {
        return ['list', array_map('show', $value)];
    }
    $pairs = [];
    foreach ($value as $key => $item) {
        $pairs[] = [bin2hex((string) $key), show($item)];
    }
    return ['map', $pairs];
}

function build($shown)
{
    [$kind, $content] = $shown;
    switch ($kind) {
        case 'str':
            return hex2bin($content);
        case 'float':
            return unpack('E', hex2bin($content))[1];
        case 'list':
            return array_map('build', $content);
        case 'map':
            $array = [];
            foreach ($content as [$key, $item]) {
                $array[hex2bin($key)] = build($item);
            }
            return $array;
        default:
            return $content;
    }
}

function read_exactly($length)
{
    $bytes = '';
    while (strlen($bytes) < $length) {
        $chunk = fread(STDIN, $length - strlen($bytes));
        if ($chunk === false || $chunk === '') {
            exit(0);
        }
        $bytes .= $chunk;
    }
    return $bytes;
}

while (true) {
    $request = read_exactly(unpack('N', read_exactly(4))[1]);
    $payload = substr($request, 1);
    if ($request[0] === 'P') {
        parse_str($payload, $parsed);
        $answer = json_encode(show($parsed), JSON_THROW_ON_ERROR, 4096);
    } else {
        $answer = http_build_query(build(json_decode($payload, true, 4096, JSON_THROW_ON_ERROR)));
    }
    fwrite(STDOUT, pack('N', strlen($answer)) . $answer);
    fflush(STDOUT);
}
