<?php
// A plain PHP handler: notes what it finds in $_POST and php://input as a line of the JSON file SEEN_FILE.
// Run with  SEEN_FILE=… php -S 127.0.0.1:PORT handler.php
// Values are written as hexadecimal, for JSON cannot hold bytes that are no UTF-8.

if (!isset($_SERVER['HTTP_X_B24TUNNEL_RECORDING'])) {
    exit('ready');
}
$body = file_get_contents('php://input');
$post = $_POST;
array_walk_recursive($post, function (&$value) {
    $value = bin2hex($value);
});
$view = [
    'body' => bin2hex($body),
    'post' => $post,
    'event' => $_REQUEST['event'] ?? null,
    'deal' => $_POST['data']['FIELDS']['ID'] ?? null,
    'recording' => $_SERVER['HTTP_X_B24TUNNEL_RECORDING'],
];
$line = json_encode($view, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE) . "\n";
file_put_contents(getenv('SEEN_FILE'), $line, FILE_APPEND | LOCK_EX);
echo 'handled';
