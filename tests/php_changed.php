<?php
// Run with  php -S 127.0.0.1:PORT php_changed.php
// Answers with what PHP makes of the request, as pairs of a path (a list of keys) and a value, all in hexadecimal,
// for JSON cannot hold bytes that are no UTF-8. A JSON body stands in for $_POST, as handlers read it.

function leaves($value, $above = [])
{
    if (!is_array($value)) {
        $text = is_string($value) ? bin2hex($value) : ['json' => json_encode($value)];
        return [[$above, $text]];
    }
    $found = [];
    foreach ($value as $key => $item) {
        array_push($found, ...leaves($item, [...$above, bin2hex((string) $key)]));
    }
    return $found;
}

if ($_SERVER['REQUEST_URI'] === '/ready') {
    exit('ready');
}
$type = $_SERVER['CONTENT_TYPE'] ?? '';
$body = file_get_contents('php://input');
if (stripos($type, 'application/json') === 0) {
    $post = json_decode($body, true);
    $all = is_array($post) ? array_replace_recursive($_GET, $post) : $post;
} else {
    $post = $_POST;
    $all = $_REQUEST;
}
$view = [
    'get' => leaves($_GET),
    'post' => leaves($post),
    'all' => leaves($all),
    'files' => array_map('bin2hex', array_keys($_FILES)),
    'length' => $_SERVER['CONTENT_LENGTH'] ?? null,
];
echo json_encode($view, JSON_THROW_ON_ERROR);
